//! What can be wrong with a pickle, one variant per failure.

/// Why a pickle was refused. `at` is the offset of the instruction in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum Error {
    /// The data ends inside of an instruction or before the end of the program.
    #[error("the pickle ends at byte {at} in the middle of its data: truncated")]
    Truncated { at: usize },
    /// A byte that is no instruction of protocols 0 to 5.
    #[error("unknown pickle instruction 0x{op:02x} at byte {at}")]
    UnknownOp {
        at: usize,
        /// The byte.
        op: u8,
    },
    /// A protocol of the future.
    #[error("pickle protocol {got} at byte {at}: protocols 0 to 5 are supported")]
    Protocol {
        at: usize,
        /// As the file says.
        got: u8,
    },
    /// Instructions that refer to something outside of the file.
    #[error("pickle instruction {op} at byte {at} refers to {what}, which the file does not contain")]
    External {
        at: usize,
        op: &'static str,
        /// What it refers to.
        what: &'static str,
    },
    /// An instruction takes more than there is.
    #[error("pickle instruction {op} at byte {at} takes more values than the stack has")]
    StackUnderflow { at: usize, op: &'static str },
    /// An instruction closes a container that was never opened.
    #[error("pickle instruction {op} at byte {at} has no MARK before it")]
    NoMark { at: usize, op: &'static str },
    /// An instruction meets a value of the wrong kind.
    #[error("pickle instruction {op} at byte {at} expected {expected}, got {got}")]
    Operand {
        at: usize,
        op: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it met.
        got: &'static str,
    },
    /// A memo slot is read before it is written.
    #[error("the pickle refers at byte {at} to memo slot {slot}, which is empty")]
    MemoMissing {
        at: usize,
        /// The slot.
        slot: u64,
    },
    /// Text that is no number, no quoted string or no name.
    #[error("pickle instruction {op} at byte {at}: expected {expected}")]
    Text {
        at: usize,
        op: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// More than [`Limits`](crate::Limits) allows.
    #[error("the pickle has more than {limit} {what} (reached at byte {at})")]
    Limit {
        at: usize,
        /// Of what.
        what: &'static str,
        limit: usize,
    },
    /// A global that no checkpoint needs and that attacks do.
    #[error(
        "the pickle refers at byte {at} to `{module}.{name}`, which could run code when Python loads the file; nothing was executed; hint: do not load this file in Python, and ask its author for another"
    )]
    Dangerous {
        at: usize,
        /// Its module.
        module: String,
        /// Its name there.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::Error;
    use crate::{Limits, decode};

    macro_rules! variants {
        ($($variant:ident)*) => {
            const ALL: &[&str] = &[$(stringify!($variant)),*];

            fn name(error: &Error) -> &'static str {
                match error {
                    $(Error::$variant { .. } => stringify!($variant),)*
                }
            }
        };
    }

    variants!(Truncated UnknownOp Protocol External StackUnderflow NoMark Operand MemoMissing Text Limit Dangerous);

    /// A new variant does not compile until it is listed, and does not pass until a program reaches it.
    #[test]
    fn every_variant_is_reached() {
        let programs: [&[u8]; 11] = [
            b"",
            b"\xff",
            b"\x80\x09",
            b"\x97",
            b".",
            b"t",
            b"NNb",
            b"h\0",
            b"Ix\n",
            b"Nr\xff\xff\xff\xff",
            b"cos\nsystem\n",
        ];
        let mut reached = BTreeSet::new();
        for program in programs {
            let error = decode(program, &Limits::default()).expect_err("refused");
            let message = error.to_string();
            assert!(!message.ends_with('.') && !message.starts_with(char::is_uppercase), "{message}");
            reached.insert(name(&error));
        }
        assert_eq!(reached, ALL.iter().copied().collect());
    }
}
