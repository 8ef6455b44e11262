//! What the shim's children tell it and how they end.

use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use super::container::{Container, now};
use super::launch::{STATUS_MAX, Status};
use super::protocol::{Message, Phase, Reply};
use super::service::{Running, Service};
use super::sys;

/// The exit code of a container whose program could not be started, as upstream's runtimes give it.
const START_ERROR: i32 = 128;

/// What a status socket has.
enum Told {
    Nothing,
    Status(Status, Option<OwnedFd>),
    /// All who held it ended or became the program.
    End,
}

fn told(socket: Option<&OwnedFd>) -> Told {
    let Some(socket) = socket else { return Told::Nothing };
    let mut packet = vec![0; STATUS_MAX];
    match sys::receive(socket.as_fd(), &mut packet) {
        Ok((0, _)) => Told::End,
        Ok((length, mut fds)) => match serde_json::from_slice(&packet[..length]) {
            Ok(status) => Told::Status(status, fds.pop()),
            Err(error) => Told::Status(Status::Failed(error.to_string()), None),
        },
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Told::Nothing,
        Err(_) => Told::End,
    }
}

impl Service {
    /// Hears all that a container's making has to say.
    pub(super) fn container_status(&mut self, id: &str) {
        loop {
            let Some(container) = self.containers.get_mut(id) else { return };
            let message = told(container.status.as_ref());
            let starting = container.info.phase == Phase::Created && container.waiter.is_some();
            match message {
                Told::Nothing => return,
                Told::Status(Status::Pid(pid), console) => {
                    container.info.pid = pid;
                    if let Some(Err(error)) = console.map(|console| container.set_console(console)) {
                        return self.creation_failed(id, error.0);
                    }
                    self.created(id);
                    if let Some(code) = self.unclaimed.remove(&pid) {
                        self.process_ended(pid, code);
                    }
                }
                Told::Status(Status::Ready(user), _) => {
                    container.info.user = Some(user);
                    self.created(id);
                }
                Told::Status(Status::Failed(message), _) if starting => {
                    container.status = None;
                    container.info.message = message.clone();
                    self.container_ended(id, START_ERROR);
                    return self.fail(id, message);
                }
                Told::Status(Status::Failed(message), _) => return self.creation_failed(id, message),
                Told::End if starting => {
                    return self.started(id);
                }
                Told::End => {
                    container.status = None;
                    if container.info.phase == Phase::Creating {
                        self.creation_failed(id, "the process that makes the container ended".into());
                    }
                    return;
                }
            }
        }
    }

    /// It is created when both its pid and its being ready are known.
    fn created(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.info.pid > 0 && container.info.user.is_some() && container.info.phase == Phase::Creating {
            container.info.phase = Phase::Created;
            container.record();
            self.reply(id);
        }
    }

    /// The program runs, or ran.
    fn started(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        container.status = None;
        container.info.phase = Phase::Running;
        container.info.started_at = now();
        container.record();
        self.announce(id);
        self.reply(id);
    }

    fn creation_failed(&mut self, id: &str, message: String) {
        self.fail(id, message);
        if let Some(container) = self.containers.remove(id) {
            if container.info.pid > 0 {
                let _ = sys::kill(container.info.pid, libc::SIGKILL);
            }
            container.kill_rest();
        }
    }

    /// Answers who waits for the container.
    fn reply(&mut self, id: &str) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some((connection, call)) = container.waiter.take() {
            let reply = Reply::Container(container.info.clone());
            self.send(connection, &Message::Reply { id: call, reply }, None);
        }
    }

    fn fail(&mut self, id: &str, message: String) {
        let waiter = self.containers.get_mut(id).and_then(|container| container.waiter.take());
        if let Some((connection, call)) = waiter {
            self.send(connection, &Message::Failed { id: call, message }, None);
        }
    }

    /// Tells every connection how a container stands.
    fn announce(&mut self, id: &str) {
        let Some(container) = self.containers.get(id) else { return };
        let message = Message::Container(container.info.clone());
        self.broadcast(&message);
    }

    fn broadcast(&mut self, message: &Message) {
        for connection in self.connections.keys().copied().collect::<Vec<_>>() {
            self.send(connection, message, None);
        }
    }

    pub(super) fn exec_status(&mut self, id: u64) {
        while let Some(exec) = self.execs.get_mut(&id) {
            let message = told(exec.status.as_ref());
            if !self.running_status(message, |service| service.execs.get_mut(&id)) {
                return;
            }
            if self.execs.get(&id).is_some_and(|exec| exec.pid == 0) {
                self.execs.remove(&id);
            }
        }
    }

    pub(super) fn pause_status(&mut self) {
        while let Some(pause) = &self.pause {
            let message = told(pause.status.as_ref());
            if !self.running_status(message, |service| service.pause.as_mut()) {
                return;
            }
        }
    }

    /// One step of an exec or the pause process. Gives `false` when there is nothing more to hear for now.
    fn running_status(&mut self, message: Told, find: impl Fn(&mut Service) -> Option<&mut Running>) -> bool {
        let Some(running) = find(self) else { return false };
        let answer = match message {
            Told::Nothing => return false,
            Told::Status(Status::Pid(pid), _) => {
                running.pid = pid;
                return true;
            }
            Told::Status(Status::Ready(_), console) => {
                running.console = console;
                return true;
            }
            Told::Status(Status::Failed(message), _) => {
                running.pid = 0;
                Err(message)
            }
            Told::End if running.pid > 0 => Ok((Reply::Pid(running.pid), running.console.take())),
            Told::End => Err("the process that starts the command ended".to_owned()),
        };
        running.status = None;
        let pid = running.pid;
        if let Some((connection, id)) = running.waiter.take() {
            match answer {
                Ok((reply, console)) => self.send(connection, &Message::Reply { id, reply }, console),
                Err(message) => self.send(connection, &Message::Failed { id, message }, None),
            }
        }
        if let Some(code) = self.unclaimed.remove(&pid) {
            self.process_ended(pid, code);
        }
        true
    }

    pub(super) fn reap(&mut self) {
        drain(&self.signals);
        while self.reap_one(WaitPidFlag::WNOHANG) {}
        if !self.is_making() {
            self.unclaimed.clear();
        }
    }

    /// Takes note of one child that ended, if there is one.
    pub(super) fn reap_one(&mut self, flags: WaitPidFlag) -> bool {
        match waitpid(None, Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) => self.process_ended(pid.as_raw(), code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => self.process_ended(pid.as_raw(), 128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(nix::errno::Errno::ECHILD) => return false,
            _ => {}
        }
        true
    }

    fn process_ended(&mut self, pid: i32, code: i32) {
        let container = self.containers.iter().find(|(_, container)| container.info.pid == pid);
        if let Some(id) = container.map(|(id, _)| id.clone()) {
            // What it said last comes before its end.
            self.container_status(&id);
            // The children that made it hold the socket too, and may outlive a program that is quick.
            let starting = |c: &Container| c.info.phase == Phase::Created && c.waiter.is_some();
            if self.containers.get(&id).is_some_and(starting) {
                self.started(&id);
            }
            self.container_ended(&id, code);
        } else if let Some(id) = self.execs.iter().find(|(_, exec)| exec.pid == pid).map(|(id, _)| *id) {
            self.exec_status(id);
            if let Some(waiter) = self.execs.get_mut(&id).and_then(|exec| exec.waiter.take()) {
                let console = self.execs.get_mut(&id).and_then(|exec| exec.console.take());
                self.send(waiter.0, &Message::Reply { id: waiter.1, reply: Reply::Pid(pid) }, console);
            }
            if self.execs.remove(&id).is_some() {
                self.broadcast(&Message::ExecExit { exec: id, exit_code: code });
            }
        } else if self.pause.as_ref().is_some_and(|pause| pause.pid == pid) {
            self.pause = None;
        } else {
            self.unclaimed.insert(pid, code);
        }
    }

    fn container_ended(&mut self, id: &str, code: i32) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if container.info.phase != Phase::Exited {
            container.kill_rest();
            container.ended(code, &mut self.buffers);
            self.announce(id);
        }
    }
}

fn drain(signals: &SignalFd) {
    while matches!(signals.read_signal(), Ok(Some(_))) {}
}
