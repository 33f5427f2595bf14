//! A server of predictions in one process: clients send requests, a worker gathers them into
//! batches, which cost less for each than one at a time, but lets none wait longer than a deadline.
//!
//! `cargo run --release --example embed_inference` runs it and prints throughput and latencies.
//! With `-- direct THREADS SECONDS` that many threads predict one row at a time instead, sharing
//! the predictor: to be watched by a profiler.

use std::{
    error::Error,
    ops::ControlFlow,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tilewise::{
    infer::{Predictor, Scratch},
    matrix::{MatMut, MatRef},
    nn::{Init, MlpConfig, mlp},
};

const FEATURES: usize = 512;
const CLASSES: usize = 10;
const CLIENTS: usize = 16;
const REQUESTS: usize = 1000;
const MAX_BATCH: usize = 8;
/// How long a request waits for others to come along.
const DEADLINE: Duration = Duration::from_micros(500);

type Logits = [f32; CLASSES];

/// One row to predict from, and where the answer goes.
struct Request {
    features: Vec<f32>,
    reply: SyncSender<Logits>,
}

/// Row `number` of the examples.
fn example(number: usize) -> Vec<f32> {
    (0..FEATURES).map(|j| ((number * 37 + j * 11) % 97) as f32 / 97.0 - 0.5).collect()
}

/// One more request for the batch, or `Break` when it has to go.
fn gather(
    requests: &Receiver<Request>,
    batch: &mut Vec<Request>,
    until: Instant,
) -> ControlFlow<()> {
    if batch.len() == MAX_BATCH {
        return ControlFlow::Break(());
    }
    match requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
        Ok(request) => {
            batch.push(request);
            ControlFlow::Continue(())
        }
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => ControlFlow::Break(()),
    }
}

/// Answers requests until no client is left; returns the number of batches.
fn serve(predictor: &Predictor<f32>, requests: Receiver<Request>) -> tilewise::Result<usize> {
    let mut scratch = predictor.scratch(MAX_BATCH)?;
    let (mut x, mut logits) = (vec![0.0; MAX_BATCH * FEATURES], [0.0; MAX_BATCH * CLASSES]);
    let (mut batch, mut batches) = (Vec::with_capacity(MAX_BATCH), 0);
    // An error here says that all clients are gone, and all that they sent is answered.
    while let Ok(first) = requests.recv() {
        batch.push(first);
        let until = Instant::now() + DEADLINE;
        while gather(&requests, &mut batch, until).is_continue() {}
        let rows = batch.len();
        for (row, request) in x.chunks_mut(FEATURES).zip(&batch) {
            row.copy_from_slice(&request.features);
        }
        let out = MatMut::new(&mut logits[..rows * CLASSES], rows, CLASSES)?;
        let rows = MatRef::new(&x[..rows * FEATURES], rows, FEATURES)?;
        predictor.predict_into(rows, out, &mut scratch)?;
        for (request, row) in batch.drain(..).zip(logits.as_chunks().0) {
            // A client that went away needs no answer.
            let _ = request.reply.send(*row);
        }
        batches += 1;
    }
    Ok(batches)
}

/// Sends requests, one after the other, and checks the answers; returns the latencies in
/// microseconds.
fn ask(
    requests: SyncSender<Request>,
    first: usize,
    expected: &[Logits],
) -> Result<Histogram<u64>, Box<dyn Error + Send + Sync>> {
    let mut latencies = Histogram::new(3)?;
    let (reply, answers) = sync_channel(1);
    for number in first..first + REQUESTS {
        let number = number % expected.len();
        let start = Instant::now();
        requests.send(Request { features: example(number), reply: reply.clone() })?;
        let answer = answers.recv()?;
        latencies.record(start.elapsed().as_micros() as u64)?;
        if answer != expected[number] {
            return Err(format!("request {number} got the answer of another").into());
        }
    }
    Ok(latencies)
}

/// The logits of one row.
fn predict(
    predictor: &Predictor<f32>,
    features: &[f32],
    scratch: &mut Scratch<f32>,
) -> tilewise::Result<Logits> {
    let mut logits = [0.0; CLASSES];
    let out = MatMut::new(&mut logits, 1, CLASSES)?;
    predictor.predict_into(MatRef::new(features, 1, FEATURES)?, out, scratch)?;
    Ok(logits)
}

/// `threads` threads predict for `time`, one row at a time.
fn direct(predictor: &Predictor<f32>, threads: usize, time: Duration) -> tilewise::Result<()> {
    let count = |thread: usize| {
        let (features, mut scratch) = (example(thread), predictor.scratch(1)?);
        let (start, mut count) = (Instant::now(), 0u64);
        while start.elapsed() < time {
            std::hint::black_box(predict(predictor, &features, &mut scratch)?);
            count += 1;
        }
        Ok(count)
    };
    let total: tilewise::Result<u64> = thread::scope(|scope| {
        let count = &count;
        let workers: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || count(thread))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
    });
    let rate = total? as f64 / time.as_secs_f64();
    println!("{threads} threads: {rate:.0} predictions/s");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let config = MlpConfig::default()
        .with_input(FEATURES)
        .with_hidden(vec![256, 128])
        .with_classes(CLASSES)
        .with_init(Init::He);
    let predictor = Predictor::new(&mlp(&config)?)?;

    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {}
        ["direct", threads, seconds] => {
            let time = Duration::from_secs(seconds.parse()?);
            return Ok(direct(&predictor, threads.parse()?, time)?);
        }
        _ => return Err("expected no arguments, or `direct THREADS SECONDS`".into()),
    }

    let mut scratch = predictor.scratch(1)?;
    let expected: Vec<Logits> = (0..100)
        .map(|number| predict(&predictor, &example(number), &mut scratch))
        .collect::<tilewise::Result<_>>()?;

    let start = Instant::now();
    let (batches, latencies) = thread::scope(|scope| {
        // As many places as clients: who cannot be served yet waits, and memory stays bounded.
        let (sender, receiver) = sync_channel(CLIENTS);
        let server = scope.spawn(|| serve(&predictor, receiver));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (sender, expected) = (sender.clone(), &expected);
                scope.spawn(move || ask(sender, 13 * client, expected))
            })
            .collect();
        // The clients' senders are the last ones: the server ends after them.
        drop(sender);
        let mut all = Histogram::<u64>::new(3)?;
        for client in clients {
            all.add(client.join().expect("no panic").map_err(|error| error.to_string())?)?;
        }
        Ok::<_, Box<dyn Error>>((server.join().expect("no panic")?, all))
    })?;
    let seconds = start.elapsed().as_secs_f64();

    let total = CLIENTS * REQUESTS;
    if latencies.len() != total as u64 {
        return Err(format!("{} answers to {total} requests", latencies.len()).into());
    }
    let mean = total as f64 / batches as f64;
    println!("{total} requests in {batches} batches of {mean:.1}: {:.0}/s", total as f64 / seconds);
    for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
        println!("p{:<5} {:>6} us", 100.0 * quantile, latencies.value_at_quantile(quantile));
    }
    println!("every answer has the bits that its row has alone");
    Ok(())
}
