//! The kinds of the storage group.

mod csidriver;
mod csinode;
mod csistoragecapacity;
mod storageclass;
mod volumeattachment;
mod volumeattributesclass;

use crate::kind::Kind;

pub(super) fn all() -> Vec<Kind> {
    vec![
        csidriver::kind(),
        csinode::kind(),
        csistoragecapacity::kind(),
        storageclass::kind(),
        volumeattachment::kind(),
        volumeattributesclass::kind(),
    ]
}
