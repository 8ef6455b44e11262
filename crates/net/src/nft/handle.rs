//! The kernel's table, kept equal to the one that is wanted.

use super::table::Table;
use crate::netlink::{Failure, Message, Socket};
use nix::errno::Errno;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Duration;

/// How long an adopted table is left for the services to be known.
const ADOPTION: Duration = Duration::from_secs(3);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "netfilter cannot be reached (the kernel needs nf_tables, and Regatta the right to administer the network): {0}"
    )]
    Socket(#[source] Errno),
    #[error("nftables refused a transaction: {0}")]
    Refused(#[from] Failure),
}

/// The one table of a cluster on this node. Clones are handles to the same table.
///
/// What is wanted is a base that stays, changed by functions: the pod network adds host ports, the proxy adds services. Each
/// change is one transaction, sent before the call returns; nothing is sent where nothing changes.
#[derive(Clone, Debug)]
pub struct Nft(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct State {
    socket: Socket,
    /// What the kernel has for sure: what the last transaction left.
    applied: Option<Table>,
    wanted: Table,
    /// An earlier life's table is still in the kernel, with services that this one does not know yet.
    adopted: bool,
}

impl Nft {
    /// Loads `base`, unless an earlier life's table is there: that one keeps serving until [`Nft::change`] brings a whole
    /// one.
    pub fn open(base: Table) -> Result<Nft, Error> {
        let mut socket = Socket::netfilter().map_err(Error::Socket)?;
        let adopted = exists(&mut socket, &base.name);
        let mut state = State { socket, applied: None, wanted: base, adopted };
        if !adopted {
            state.apply()?;
        }
        Ok(Nft(Arc::new((Mutex::new(state), Condvar::new()))))
    }

    /// Removes the table of this name, if there is one.
    pub fn remove(name: &str) -> Result<(), Error> {
        let mut socket = Socket::netfilter().map_err(Error::Socket)?;
        Ok(socket.transaction(Table::removal(name))?)
    }

    /// Changes what is wanted and makes it so, in one transaction. An adopted table is replaced.
    pub fn change(&self, change: impl FnOnce(&mut Table)) -> Result<(), Error> {
        let (state, replaced) = &*self.0;
        let mut state = state.lock();
        change(&mut state.wanted);
        state.apply()?;
        replaced.notify_all();
        Ok(())
    }

    /// As [`Nft::change`], but where an earlier life's table still serves, gives the whole new one some time to come.
    pub fn change_soon(&self, change: impl FnOnce(&mut Table)) -> Result<(), Error> {
        let (state, replaced) = &*self.0;
        let mut state = state.lock();
        change(&mut state.wanted);
        replaced.wait_while_for(&mut state, |state| state.adopted, ADOPTION);
        state.apply()
    }

    /// Loads everything anew if another program has removed the table.
    pub fn restore(&self) -> Result<(), Error> {
        let mut state = self.0.0.lock();
        let name = state.wanted.name.clone();
        if exists(&mut state.socket, &name) {
            return Ok(());
        }
        tracing::warn!(table = name, "another program has removed the nftables table, loading it anew");
        state.applied = None;
        state.apply()
    }
}

impl State {
    fn apply(&mut self) -> Result<(), Error> {
        let change = self.applied.as_ref().and_then(|applied| self.wanted.change_from(applied));
        let incremental = change.is_some();
        let result = self.socket.transaction(change.unwrap_or_else(|| self.wanted.replacement()));
        let result = match result {
            // Another program may have changed or removed the table; the whole of it does not depend on what is there.
            Err(failure) if incremental => {
                tracing::warn!(table = self.wanted.name, %failure, "nftables table was changed from outside, loading it anew");
                self.socket.transaction(self.wanted.replacement())
            }
            other => other,
        };
        self.applied = result.is_ok().then(|| self.wanted.clone());
        self.adopted &= result.is_err();
        Ok(result?)
    }
}

fn exists(socket: &mut Socket, name: &str) -> bool {
    const GET_TABLE: u16 = 10 << 8 | 1;
    let request = Message::new(GET_TABLE, 0, &[libc::NFPROTO_INET as u8, 0, 0, 0]).text(1, name);
    socket.run(vec![request]).is_ok()
}
