//! A connection whose answers come late, in their order: what a cache shows over it is the past.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use client::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::Instant,
};

const PIPE: usize = 64 * 1024;

/// An acceptor before another one that holds back what the server says for up to `most`, each connection in its own way.
pub fn slowed(inner: Acceptor, most: Duration) -> Acceptor {
    Arc::new(move |stream, identity| {
        let (ours, theirs) = tokio::io::duplex(PIPE);
        inner(theirs, identity);
        tokio::spawn(carry(stream, ours, most));
    })
}

async fn carry(client: DuplexStream, server: DuplexStream, most: Duration) {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let questions = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
    };
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let hearing = async move {
        let (mut buffer, mut last, mut dice) = (vec![0; PIPE], Instant::now(), Dice::new());
        while let Ok(length) = from_server.read(&mut buffer).await {
            if length == 0 {
                break;
            }
            // Never before what came before it.
            last = last.max(Instant::now() + dice.up_to(most));
            let _ = sender.send((last, buffer[..length].to_vec()));
        }
    };
    let telling = async {
        let mut waiting = VecDeque::new();
        while let Some(part) = receiver.recv().await {
            waiting.push_back(part);
            while let Some((at, bytes)) = waiting.pop_front() {
                tokio::time::sleep_until(at).await;
                if to_client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(questions, hearing, telling);
}

/// Throws another sequence for each connection.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        use std::sync::atomic::{AtomicU64, Ordering};
        static THROWN: AtomicU64 = AtomicU64::new(1);
        Dice(THROWN.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed) | 1)
    }

    fn up_to(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        most.mul_f64((self.0 % 1000) as f64 / 1000.0)
    }
}
