//! Which values lead to others.

use crate::node::Node;
use crate::value::{Id, Pickle, Value};

/// The values of a pickle from which some value of interest can be reached; see [`Pickle::leading_to`].
#[derive(Clone, Debug)]
pub struct Leading {
    /// By the position of the value.
    leads: Vec<bool>,
}

impl Leading {
    /// Whether something of interest is the value itself or somewhere in it.
    pub fn contains(&self, node: Node<'_, '_>) -> bool {
        self.leads.get(node.id().0 as usize).copied().unwrap_or(false)
    }
}

impl Pickle<'_> {
    /// The values that are of interest, hold one, or refer to one, through any number of others: members of
    /// containers, values of dictionaries, and what calls are made with. Keys of dictionaries are not followed.
    ///
    /// Every value is looked at once, whatever cycles there are.
    pub fn leading_to(&self, interesting: impl Fn(Node<'_, '_>) -> bool) -> Leading {
        let holders = Holders::of(self);
        let mut leads = vec![false; self.values.len()];
        let mut open: Vec<u32> = Vec::new();
        for node in self.nodes().filter(|node| interesting(*node)) {
            if let Some(lead) = leads.get_mut(node.id().0 as usize) {
                *lead = true;
                open.push(node.id().0);
            }
        }
        while let Some(value) = open.pop() {
            for &holder in holders.of_value(value) {
                if let Some(lead) = leads.get_mut(holder as usize).filter(|lead| !**lead) {
                    *lead = true;
                    open.push(holder);
                }
            }
        }
        Leading { leads }
    }

    /// Calls `f` with what a value refers to directly.
    fn each_member(&self, value: &Value<'_>, mut f: impl FnMut(Id)) {
        match value {
            Value::List(ids) | Value::Tuple(ids) | Value::Set(ids) => ids.iter().copied().for_each(f),
            Value::Dict(entries) => entries.iter().for_each(|&(_, value)| f(value)),
            Value::Call(call) => {
                [Some(call.callable), Some(call.args), call.kwargs, call.state]
                    .into_iter()
                    .flatten()
                    .for_each(&mut f);
                call.items.iter().copied().for_each(&mut f);
                call.entries.iter().for_each(|&(_, value)| f(value));
            }
            Value::Persistent(id) => f(*id),
            _ => {}
        }
    }
}

/// For every value, the values that refer to it: all in one list, one behind the other.
struct Holders {
    /// Where the holders of a value begin; those of the next one are behind them.
    starts: Vec<u32>,
    holders: Vec<u32>,
}

impl Holders {
    fn of(pickle: &Pickle<'_>) -> Self {
        let mut starts = vec![0u32; pickle.values.len() + 1];
        for value in &pickle.values {
            pickle.each_member(value, |Id(member)| {
                if let Some(count) = starts.get_mut(member as usize) {
                    *count += 1;
                }
            });
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += std::mem::replace(start, sum);
        }
        // Now every value's start; filling moves each to the next one's.
        let mut holders = vec![0u32; sum as usize];
        for (holder, value) in (0u32..).zip(&pickle.values) {
            pickle.each_member(value, |Id(member)| {
                let Some(at) = starts.get_mut(member as usize) else { return };
                if let Some(slot) = holders.get_mut(*at as usize) {
                    *slot = holder;
                }
                *at += 1;
            });
        }
        Self { starts, holders }
    }

    fn of_value(&self, value: u32) -> &[u32] {
        let start = |at: Option<usize>| at.and_then(|i| self.starts.get(i)).map_or(0, |&s| s as usize);
        let range = start((value as usize).checked_sub(1))..start(Some(value as usize));
        self.holders.get(range).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Limits, decode};

    /// Of the members of the outermost list, whether each leads to the class `m.x`.
    fn members(program: &[u8]) -> Vec<bool> {
        let pickle = decode(program, &Limits::default()).expect("decodes");
        let leading = pickle.leading_to(|node| node.global().is_some_and(|g| g.name == "x"));
        pickle.root().items().expect("a list").map(|node| leading.contains(node)).collect()
    }

    #[test]
    fn every_kind_of_holder() {
        // The class, a dictionary's value, a dictionary's key, a tuple, a set, nothing.
        let program = b"](cm\nx\nq\0}Nh\0s}h\0Nsh\0\x85\x8f(h\0\x90Ne.";
        assert_eq!(members(program), [true, true, false, true, true, false]);
        // A call of it, with it, with it as its state, with it as an item and an entry; and another one.
        let program = b"](cm\nx\nq\0)Rcm\ny\nq\x01h\0\x85Rh\x01)Rh\0bh\x01)Rh\0ah\x01)RNh\0sh\x01)Re.";
        assert_eq!(members(program), [true, true, true, true, true, false]);
    }

    #[test]
    fn cycles_end() {
        // Two lists that hold each other, with the class in one of them; a list in itself, without.
        let program = b"](]q\0]q\x01h\0acm\nx\naah\x01]q\x02h\x02ae.";
        assert_eq!(members(program), [true, true, false]);
    }
}
