//! The order of a merged list's items: a patch's items in the patch's order, the others where they were.

use crate::Value;

/// What makes two items of a list the same: the whole item, or the value of its merge key.
#[derive(Clone, Copy)]
pub struct Identity<'a>(pub &'a str);

impl Identity<'_> {
    pub fn same(self, a: &Value, b: &Value) -> bool {
        if self.0.is_empty() { a == b } else { a.get(self.0).is_some() && a.get(self.0) == b.get(self.0) }
    }

    pub fn place(self, item: &Value, list: &[Value]) -> Option<usize> {
        list.iter().position(|other| self.same(item, other))
    }
}

/// Orders `merged`: items named by `patch` come in its order, the others keep the order of `server`, and the two are woven so that
/// an item that the server had before another stays before it.
pub fn normalize(merged: Vec<Value>, patch: &[Value], server: &[Value], identity: Identity) -> Vec<Value> {
    let (mut from_patch, mut others): (Vec<_>, Vec<_>) =
        merged.into_iter().partition(|item| identity.place(item, patch).is_some());
    from_patch.sort_by_key(|item| identity.place(item, patch));
    others.sort_by_key(|item| identity.place(item, server).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(from_patch.len() + others.len());
    let mut right = from_patch.into_iter().peekable();
    for left in others {
        let here = identity.place(&left, server);
        while let Some(next) = right.peek() {
            let there = identity.place(next, server);
            if matches!((here, there), (Some(here), Some(there)) if here < there) {
                break;
            }
            out.extend(right.next());
        }
        out.push(left);
    }
    out.extend(right);
    out
}
