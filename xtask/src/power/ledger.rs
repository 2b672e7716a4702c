//! What the machine said, and whether it keeps to it: nothing that was acknowledged may be missing later.

use anyhow::{Context, Result, bail, ensure};

/// How the machine marks what it says to us.
const MARK: &str = "@power ";
/// Without it, a number may lack its last digits.
const END: char = ';';

/// One thing that the machine said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// How many commands of each writer are in the state.
    Found(Vec<u64>),
    /// One more was acknowledged.
    Acknowledged { writer: usize, number: u64 },
    /// Something that must not be, in words.
    Wrong(String),
}

/// `None` for what is not for us, and for a line that the power cut short.
pub fn parse(line: &str) -> Option<Said> {
    // The end of the kernel's own words may stand before it.
    let (_, news) = line.split_once(MARK)?;
    let news = news.strip_suffix(END)?;
    if let Some(what) = news.strip_prefix("wrong ") {
        return Some(Said::Wrong(what.to_owned()));
    }
    let mut words = news.split_whitespace();
    match words.next()? {
        "found" => words.map(|word| word.parse().ok()).collect::<Option<_>>().map(Said::Found),
        "acknowledged" => {
            let (writer, number) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            Some(Said::Acknowledged { writer, number })
        }
        _ => None,
    }
}

/// What each writer was told, over all power cuts.
#[derive(Debug, Default)]
pub struct Ledger {
    /// How many commands of each writer are safe: all before this number.
    safe: Vec<u64>,
    acknowledged: u64,
    /// Found although nobody had been told.
    unasked: u64,
}

impl Ledger {
    /// How many acknowledgements there were.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// How many commands were found that the power kept from being acknowledged.
    pub fn unasked(&self) -> u64 {
        self.unasked
    }

    /// Compares what is there after a start with what was acknowledged.
    pub fn find(&mut self, found: Vec<u64>) -> Result<()> {
        self.safe.resize(found.len(), 0);
        for (writer, (safe, found)) in self.safe.iter_mut().zip(found).enumerate() {
            let told = *safe;
            ensure!(
                found >= told,
                "writer {writer}: {} commands are missing that were acknowledged, from number {found} on",
                told - found
            );
            // Each writer has one command under way.
            ensure!(
                found <= told + 1,
                "writer {writer}: {} commands are there that nobody sent",
                found - told
            );
            self.unasked += found - told;
            *safe = found;
        }
        Ok(())
    }

    /// Takes an acknowledgement down.
    pub fn acknowledge(&mut self, writer: usize, number: u64) -> Result<()> {
        let safe = self.safe.get_mut(writer).with_context(|| format!("there is no writer {writer}"))?;
        if number != *safe {
            bail!("writer {writer}: number {number} was acknowledged after number {}", safe.wrapping_sub(1));
        }
        *safe += 1;
        self.acknowledged += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(acknowledged: &[(usize, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.find(vec![0, 0]).unwrap();
        for (writer, number) in acknowledged {
            ledger.acknowledge(*writer, *number).unwrap();
        }
        ledger
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_under_way_may_be() {
        let told = [(0, 0), (0, 1), (1, 0)];
        assert!(after(&told).find(vec![2, 1]).is_ok());
        assert!(after(&told).find(vec![3, 2]).is_ok());
        let missing = after(&told).find(vec![1, 1]).unwrap_err().to_string();
        assert!(missing.contains("writer 0: 1 commands are missing"), "{missing}");
        assert!(after(&told).find(vec![4, 1]).is_err());
    }

    #[test]
    fn a_writer_goes_on_behind_what_was_found() {
        let mut ledger = after(&[(0, 0)]);
        ledger.find(vec![2, 0]).unwrap();
        assert!(ledger.acknowledge(0, 1).is_err());
        ledger.acknowledge(0, 2).unwrap();
        assert_eq!((ledger.acknowledged(), ledger.unasked()), (2, 1));
        assert!(ledger.acknowledge(2, 0).is_err());
    }

    #[test]
    fn lines_are_understood_and_torn_ones_are_not() {
        assert_eq!(parse("@power found 3 0 17;"), Some(Said::Found(vec![3, 0, 17])));
        assert_eq!(parse("@power acknowledged 2 17;"), Some(Said::Acknowledged { writer: 2, number: 17 }));
        assert_eq!(parse("[ 1.0] word@power wrong no disk;"), Some(Said::Wrong("no disk".to_owned())));
        for line in [
            "",
            "2026 INFO listening",
            "@power acknowledged 2 1",
            "@power acknowledged 2;",
            "@power found 3 x;",
            "@pow",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }
}
