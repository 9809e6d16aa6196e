//! `finish_item` with `is_last`: a consumer's sums on their way out, alone or with the other parts of K.
use crate::config::{Config, Fault};
use crate::model::Wrong;
use crate::state::Share;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum At {
    /// `finish_strips`: to the output where K is whole, else `add_strip`.
    #[default]
    Add,
    /// `is_last`: `atomicAdd(arrived, 1)`.
    Count,
    /// `finish_added`: `take_sums`, and the epilogue.
    Take,
    /// `finish_item`: `*arrived = 0`.
    Zero,
}

impl At {
    /// What comes next for this consumer's share of the tile; nothing when it is finished.
    pub fn step(self, c: &Config, share: &mut Share) -> Result<Option<At>, Wrong> {
        let early = c.fault == Fault::CountBeforeAdd;
        if c.splits() == 1 {
            return write(share);
        }
        match self {
            At::Add if early => count(c, share, At::Count),
            At::Add => {
                share.sums += 1;
                Ok(Some(At::Count))
            }
            At::Count if early => {
                share.sums += 1;
                Ok(None)
            }
            At::Count => count(c, share, At::Take),
            At::Take => {
                if share.sums != c.splits() {
                    return Err(Wrong::SumsOfAnotherTime);
                }
                if c.fault != Fault::SumsKept {
                    share.sums = 0;
                }
                write(share)?;
                Ok((c.fault != Fault::CounterKept).then_some(At::Zero))
            }
            At::Zero => {
                share.arrived = 0;
                Ok(None)
            }
        }
    }
}

/// `is_last`: the last to come goes on with `then`.
fn count(c: &Config, share: &mut Share, then: At) -> Result<Option<At>, Wrong> {
    let before = share.arrived;
    share.arrived += 1;
    let last = match c.fault {
        Fault::FirstIsLast => before == 0,
        _ => before == c.splits() - 1,
    };
    // Counted before it was added, the last part takes the sums at once.
    let then = if c.fault == Fault::CountBeforeAdd && last {
        At::Take
    } else {
        then
    };
    Ok((last || c.fault == Fault::CountBeforeAdd).then_some(then))
}

fn write(share: &mut Share) -> Result<Option<At>, Wrong> {
    share.written += 1;
    if share.written > 1 {
        return Err(Wrong::WrittenTwice);
    }
    Ok(None)
}
