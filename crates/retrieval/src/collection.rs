//! A collection in memory: its rows, its approximate index, and what filters matched.

use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};

use crate::ann::Ann;
use crate::database::{Database, Stored};
use crate::engine::{Info, Spec};
use crate::error::Result;
use crate::filter::Filter;
use crate::lock::{lock, read, write};
use crate::rows::Rows;

/// Filters whose matches are kept.
const FILTERS: usize = 32;
/// Matches that are kept, of all filters together: 64 MB.
const MATCHES: usize = 8 << 20;
/// Looks at rows and matches while others write, until both are of one moment, and how long they may take. Then nobody
/// writes for one look.
const ATTEMPTS: usize = 16;
const PATIENCE: Duration = Duration::from_secs(1);
/// Before memory is looked at again that has not what the file has.
const WAIT: Duration = Duration::from_millis(1);
/// Deleted rows that a filter's matches may hold on to.
const GONE: usize = 10_000;

pub(crate) struct Collection {
    pub(crate) stored: Stored,
    /// Of its model, where that was told after it was made.
    pub(crate) adopted: OnceLock<String>,
    /// As the database, but for moments after a commit.
    pub(crate) rows: RwLock<Rows>,
    /// `None` while all searches are exact.
    pub(crate) ann: RwLock<Option<Ann>>,
    /// The last used first.
    matches: Mutex<Vec<Matches>>,
}

/// The rows that a filter matched. What a row holds never changes: only rows that came since are looked at again, and
/// those that are gone are passed over by who asks.
#[derive(Clone)]
pub(crate) struct Matches {
    /// As JSON.
    filter: Arc<str>,
    /// Rows up to this number were looked at; in memory there may be fewer yet, or more.
    upto: i64,
    /// Numbers of those that match, sorted.
    pub(crate) seqs: Arc<Vec<i64>>,
}

impl Collection {
    pub(crate) fn new(stored: Stored) -> Self {
        let rows = RwLock::new(Rows::new(stored.spec.dim));
        Self {
            stored,
            adopted: OnceLock::new(),
            rows,
            ann: RwLock::new(None),
            matches: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn dim(&self) -> usize {
        self.stored.spec.dim
    }

    pub(crate) fn info(&self) -> Info {
        Info {
            name: self.stored.name.clone(),
            spec: self.spec(),
            count: read(&self.rows).len(),
            indexed: read(&self.ann).as_ref().map_or(0, Ann::len),
            created: self.stored.created,
        }
    }

    /// What it was made for, with what is known of it by now.
    pub(crate) fn spec(&self) -> Spec {
        let spec = self.stored.spec.clone();
        let identity = spec.identity.or_else(|| self.adopted.get().cloned());
        Spec { identity, ..spec }
    }

    /// Whether an approximate index is worth its while.
    pub(crate) fn wants_ann(&self, exact_numbers: usize) -> bool {
        read(&self.rows).len().saturating_mul(self.dim()) > exact_numbers
    }

    pub(crate) fn set_ann(&self, ann: Option<Ann>) {
        *write(&self.ann) = ann;
    }

    pub(crate) fn check_maker(&self, found: &str) -> Result<()> {
        let spec = self.spec();
        if spec.maker() == found { Ok(()) } else { Err(spec.other_maker(&self.stored.name, found)) }
    }

    /// The rows that the filter matches, those that were deleted since included. `before`: what an earlier call gave, from
    /// which this one goes on.
    pub(crate) fn matching(
        &self,
        filter: &Filter,
        database: &Database,
        before: Option<Matches>,
    ) -> Result<Matches> {
        let key: Arc<str> = serde_json::to_string(filter).unwrap_or_default().into();
        let upto = read(&self.rows).last_seq();
        let known = before.or_else(|| lock(&self.matches).iter().find(|m| m.filter == key).cloned());
        let mut found = known.unwrap_or_else(|| Matches { filter: key, upto: 0, seqs: Arc::default() });
        if found.upto < upto {
            let seqs = Arc::make_mut(&mut found.seqs);
            let mut seen = upto;
            // all that there are: of a point that is replaced meanwhile the file has the new row alone
            database.each_payload(self.stored.uid, found.upto, |entry| {
                seen = entry.seq;
                if filter.matches(&entry.payload) {
                    seqs.push(entry.seq);
                }
            })?;
            found.upto = seen.max(upto);
            let rows = read(&self.rows);
            if seqs.len() > rows.len() + GONE {
                let last = rows.last_seq();
                let coming = seqs.iter().copied().filter(|seq| *seq > last);
                *seqs = rows.among(seqs).map(|row| row.seq).chain(coming).collect();
            }
        }
        self.keep(found.clone());
        Ok(found)
    }

    /// What `look` finds among the rows in memory and those of them that the filter matches, at one moment: looked for again
    /// while rows come in between, after [`ATTEMPTS`] or [`PATIENCE`] with `writer` held, so that none do. `writer` is `None`
    /// where the caller holds it. `first` is asked before rows are held, and what it gives is handed on.
    pub(crate) fn at_once<F, T>(
        &self,
        filter: Option<&Filter>,
        database: &Database,
        writer: Option<&Mutex<Database>>,
        first: impl FnOnce(Option<&[i64]>) -> F,
        look: impl FnOnce(&Rows, Option<&[i64]>, F) -> T,
    ) -> Result<T> {
        let Some(filter) = filter else {
            let handed = first(None);
            return Ok(look(&read(&self.rows), None, handed));
        };
        let began = Instant::now();
        let mut matches = self.matching(filter, database, None)?;
        let handed = first(Some(&matches.seqs));
        let mut attempt = 1;
        while attempt < ATTEMPTS && began.elapsed() < PATIENCE {
            let rows = read(&self.rows);
            let (ahead, behind) = (matches.upto > rows.last_seq(), matches.upto < rows.last_seq());
            if !(ahead || behind) {
                return Ok(look(&rows, Some(&matches.seqs), handed));
            }
            drop(rows);
            if ahead {
                // between a commit and memory the database may move its log, which takes as long as the disk does
                std::thread::sleep(WAIT);
            } else {
                matches = self.matching(filter, database, Some(matches))?;
                attempt += 1;
            }
        }
        let _held = writer.map(lock);
        matches = self.matching(filter, database, Some(matches))?;
        Ok(look(&read(&self.rows), Some(&matches.seqs), handed))
    }

    fn keep(&self, found: Matches) {
        let mut all = lock(&self.matches);
        all.retain(|m| m.filter != found.filter);
        all.insert(0, found);
        all.truncate(FILTERS);
        let mut sum = 0;
        all.retain(|m| {
            sum += m.seqs.len();
            sum <= MATCHES
        });
    }
}
