//! Measures durable creates by 64 concurrent writers, the CPU time of each, a list, and opening again.
//!
//! `cargo run --release -p store --example load -- DIRECTORY [COUNT]`

use std::{path::Path, time::Instant};

use store::{List, Options, Store, Txn};

fn proc_status(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":")).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default()
}

/// User and system time of this process in ticks of 10 ms.
fn cpu_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11..13).map_or(0, |times| times.iter().filter_map(|time| time.parse::<u64>().ok()).sum())
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("which directory?")?;
    let count: usize = args.next().map_or(Ok(50_000), |count| count.parse())?;
    let store = Store::open(Path::new(&dir), Options::default())?;
    let (start, ticks) = (Instant::now(), cpu_ticks());
    let writers = (0..64).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 0..count / 64 {
                let key = format!("/registry/pods/default/{}-{writer}-{n}", std::process::id());
                store.commit(Txn::create(key, vec![b'x'; 1024])).await.map(drop)?;
            }
            Ok::<_, store::Error>(())
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await??;
    }
    let took = start.elapsed();
    println!("{:.0} creates/s", count as f64 / took.as_secs_f64());
    println!("{:.1} µs CPU a create, client included", (cpu_ticks() - ticks) as f64 * 10_000. / count as f64);
    let start = Instant::now();
    let listed = store.list("/registry/pods/", List::default())?.entries.len();
    println!("{listed} entries listed in {:?}", start.elapsed());
    println!("{} MiB resident", proc_status("VmRSS") / 1024);
    drop(store);
    let start = Instant::now();
    let store = Store::open(Path::new(&dir), Options::default())?;
    println!("opened again in {:?}, {} MiB resident", start.elapsed(), proc_status("VmRSS") / 1024);
    drop(store);
    Ok(())
}
