//! A tree of names: values found along a path of parts (a path's segments, a host's labels from the right).
//!
//! Data plane; per generation. Invariant: node 0 is the root, and a walk costs at most one hash look-up a part and ends
//! at the first unknown one, so a client's longest path costs no more than the table's longest. It must not know what
//! its parts or values mean.

use std::collections::HashMap;
use std::iter;

/// Nodes in one list rather than in each other: dropping a deep tree must not recurse.
#[derive(Debug)]
pub(super) struct Trie<T>(Vec<Node<T>>);

#[derive(Debug)]
struct Node<T> {
    children: HashMap<Box<str>, usize>,
    value: T,
}

impl<T: Default> Trie<T> {
    pub(super) fn new() -> Trie<T> {
        Trie(vec![Node::default()])
    }

    /// The value at the end of `parts`, made when it is not there.
    pub(super) fn entry<'p>(&mut self, parts: impl Iterator<Item = &'p str>) -> &mut T {
        let end = parts.fold(0, |node, part| self.child(node, part));
        &mut self.0[end].value
    }

    fn child(&mut self, node: usize, part: &str) -> usize {
        if let Some(&child) = self.0[node].children.get(part) {
            return child;
        }
        let child = self.0.len();
        self.0[node].children.insert(part.into(), child);
        self.0.push(Node::default());
        child
    }
}

impl<T> Trie<T> {
    /// The root's value, then that of each node along `parts` as far as they are known.
    pub(super) fn walk<'p>(&self, mut parts: impl Iterator<Item = &'p str>) -> impl Iterator<Item = &T> {
        let mut next = self.0.first();
        iter::from_fn(move || {
            let node = next?;
            next = node.child(&mut parts).map(|child| &self.0[child]);
            Some(&node.value)
        })
    }

    pub(super) fn map<U>(self, mut change: impl FnMut(T) -> U) -> Trie<U> {
        let nodes = self.0.into_iter();
        Trie(
            nodes
                .map(|node| Node {
                    children: node.children,
                    value: change(node.value),
                })
                .collect(),
        )
    }
}

impl<T> Node<T> {
    fn child<'p>(&self, parts: &mut impl Iterator<Item = &'p str>) -> Option<usize> {
        if self.children.is_empty() {
            return None;
        }
        self.children.get(parts.next()?).copied()
    }
}

impl<T: Default> Default for Node<T> {
    fn default() -> Self {
        Node {
            children: HashMap::new(),
            value: T::default(),
        }
    }
}
