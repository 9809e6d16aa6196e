//! The launch as a transition system, and what must hold in it.
use crate::config::Config;
use crate::state::{Block, State};
use crate::{consumer, producer};
use stateright::{Model, Property};

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// A stage is filled again before all who read it are done, or while a copy is on its way to it.
    Overwritten,
    /// A stage is multiplied that does not hold what belongs to the item.
    ReadBeforeFull,
    /// A barrier is arrived at more often than its phase counts.
    TooManyArrivals,
    /// A barrier is used before it was initialised.
    BarrierNotThere,
    /// Shared memory of a block that has ended is touched.
    BlockHasLeft,
    /// Something of the kernel before is touched while it may still run.
    BeforeTheKernelBefore,
    /// The last part of a tile finds sums that are not those of all parts.
    SumsOfAnotherTime,
    /// A tile is written to the output a second time.
    WrittenTwice,
}

/// Who goes on, by one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    KernelBeforeEnds,
    Producer { block: u8 },
    Consumer { block: u8, consumer: u8 },
    CopyLands { block: u8, stage: u8, part: u8 },
    WgmmaCompletes { block: u8, consumer: u8 },
}

/// The properties, by name.
pub const NO_DEADLOCK: &str = "no deadlock";
pub const NOTHING_WRONG: &str = "nothing that must never happen";
pub const LEFT_AS_FOUND: &str = "counters and sums are zero at the end, every tile is written";

impl Block {
    /// `igemm` is at its last barrier, or past it.
    pub fn is_done(&self) -> bool {
        let consumers = self
            .consumer
            .iter()
            .all(|k| matches!(k.at, consumer::At::LastBarrier | consumer::At::Left));
        consumers
            && matches!(
                self.producer.at,
                producer::At::LastBarrier | producer::At::Left
            )
    }

    pub fn left(&self) -> bool {
        self.producer.at == producer::At::Left
            && self.consumer.iter().all(|k| k.at == consumer::At::Left)
    }
}

impl Config {
    fn ended(&self, s: &State) -> bool {
        s.block[..usize::from(self.blocks())]
            .iter()
            .all(Block::left)
    }

    fn left_as_found(&self, s: &State) -> bool {
        let tiles = usize::from(self.tiles * self.cluster * self.readers());
        s.share[..tiles]
            .iter()
            .all(|t| t.sums == 0 && t.arrived == 0 && t.written == 1)
    }

    /// A step of one actor that commutes with all that the others may do before it. Where there is one it is taken at
    /// once, and alone: every interleaving differs from one of those by the order of steps that nobody can tell.
    fn private_action(&self, s: &State) -> Option<Step> {
        (0..self.blocks()).find_map(|b| {
            let block = &s.block[usize::from(b)];
            if block.producer.is_private(self) && block.producer.can_step(self, s, b) {
                return Some(Step::Producer { block: b });
            }
            (0..).zip(&block.consumer).find_map(|(k, consumer)| {
                let taken = consumer.is_private(self, k) && consumer.can_step(self, s, b, k);
                taken.then_some(Step::Consumer {
                    block: b,
                    consumer: k,
                })
            })
        })
    }

    fn block_actions(&self, s: &State, b: u8, actions: &mut Vec<Step>) {
        let block = &s.block[usize::from(b)];
        if block.producer.can_step(self, s, b) {
            actions.push(Step::Producer { block: b });
        }
        for (k, consumer) in (0..).zip(&block.consumer) {
            if consumer.can_step(self, s, b, k) {
                actions.push(Step::Consumer {
                    block: b,
                    consumer: k,
                });
            }
            if consumer.flying > 0 {
                actions.push(Step::WgmmaCompletes {
                    block: b,
                    consumer: k,
                });
            }
        }
        // Of the copies on their way to a stage the first lands first: nobody sees it without the others.
        for (n, stage) in (0..self.stages).zip(&block.stage) {
            if let Some(part) = stage.coming.iter().position(|&used| used != 0) {
                let part = part as u8;
                actions.push(Step::CopyLands {
                    block: b,
                    stage: n,
                    part,
                });
            }
        }
    }
}

impl Model for Config {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        self.check();
        // Only what is filled ahead can tell when the kernel before ends.
        vec![State {
            before_ended: !self.weights_ready,
            ..State::default()
        }]
    }

    fn actions(&self, s: &State, actions: &mut Vec<Step>) {
        if s.wrong.is_some() {
            return;
        }
        if let Some(step) = self.private_action(s) {
            actions.push(step);
            return;
        }
        if !s.before_ended {
            actions.push(Step::KernelBeforeEnds);
        }
        for b in 0..self.blocks() {
            self.block_actions(s, b, actions);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut s = *last;
        let done = match step {
            Step::KernelBeforeEnds => {
                s.before_ended = true;
                Ok(())
            }
            Step::Producer { block } => last.block[usize::from(block)]
                .producer
                .step(self, &mut s, block),
            Step::Consumer { block, consumer } => last.block[usize::from(block)].consumer
                [usize::from(consumer)]
            .step(self, &mut s, block, consumer),
            Step::CopyLands { block, stage, part } => {
                producer::land(self, &mut s, block, stage, part)
            }
            Step::WgmmaCompletes { block, consumer } => last.block[usize::from(block)].consumer
                [usize::from(consumer)]
            .complete(self, &mut s, block, consumer),
        };
        s.wrong = done.err();
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NOTHING_WRONG, |_, s: &State| s.wrong.is_none()),
            Property::always(NO_DEADLOCK, |c: &Config, s: &State| {
                let mut actions = Vec::new();
                c.actions(s, &mut actions);
                !actions.is_empty() || s.wrong.is_some() || c.ended(s)
            }),
            Property::always(LEFT_AS_FOUND, |c: &Config, s: &State| {
                !c.ended(s) || c.left_as_found(s)
            }),
            // Else the others would hold for want of states.
            Property::sometimes("the launch ends", |c: &Config, s: &State| c.ended(s)),
        ]
    }
}
