//! What a command prints, and what becomes of it where nobody can read it.
//!
//! ```text
//!   results   lines that a command is there for (info, bench)    not printed: the command has failed
//!   Reports   lines about a file that is in its place            not printed: said on stderr; the file is there
//!   note      remarks, on stderr                                 not printed: nothing can be done
//! ```
//!
//! A reader that has gone away has seen enough: that is no failure of either.

use crate::Failure;
use std::fmt;
use std::io::{self, Write};
use std::path::Path;

fn print(to: &mut dyn Write, text: &dyn fmt::Display) -> io::Result<()> {
    writeln!(to, "{text}").and_then(|()| to.flush())
}

/// Prints a line of a command's result.
pub fn result(text: impl fmt::Display) -> Result<(), Failure> {
    match print(&mut io::stdout().lock(), &text) {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::unread()),
        Err(e) => Err(Failure::new(format!("standard output: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// Prints a remark on stderr.
pub fn note(text: impl fmt::Display) {
    let _ = print(&mut io::stderr().lock(), &format_args!("imma: {text}"));
}

/// What is said of an output that was written.
pub struct Reports {
    /// The output itself goes to standard output.
    aside: bool,
    failed: bool,
}

impl Reports {
    /// Reports about `output`; made before it is written.
    pub fn about(output: &Path) -> Self {
        Reports {
            aside: imma::files::is_stdout(output),
            failed: false,
        }
    }

    /// Prints a line, once the output is in its place.
    pub fn line(&mut self, text: impl fmt::Display) {
        if self.failed {
            return;
        }
        let printed = match self.aside {
            true => print(&mut io::stderr().lock(), &text),
            false => print(&mut io::stdout().lock(), &text),
        };
        let Err(e) = printed else { return };
        self.failed = true;
        if e.kind() != io::ErrorKind::BrokenPipe && !self.aside {
            note(format_args!(
                "the output was written, its report could not be printed: {e}"
            ));
        }
    }
}
