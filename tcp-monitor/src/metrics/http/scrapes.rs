//! One rendering of the metrics at a time, in a thread of its own, and a few at most in memory,
//! however many clients ask.
//!
//! At 4,096 ports an exposition is 100 MB and takes a tenth of a second. Requests that wait share
//! the next one; readers that do not read lose theirs to those who wait.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// Makes an exposition, or says why it cannot.
pub(super) type Render = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What scrapes may take.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Expositions in memory, the one that is being rendered included.
    pub(super) expositions: usize,
    /// How long a request waits for readers to be done before the oldest lose their connection.
    pub(super) patience: Duration,
    /// Requests that wait; more wait to wait.
    pub(super) requests: usize,
}

/// Where to ask for an exposition.
#[derive(Clone)]
pub(super) struct Scrapes {
    requests: mpsc::Sender<Request>,
}

struct Request {
    answer: oneshot::Sender<Result<Bytes, String>>,
    /// Notifies the reader that it is replaced. It is dropped with the reader.
    replaced: Weak<Notify>,
}

impl Scrapes {
    /// Renders from now on, in the running tokio runtime, as long as a client can ask.
    pub(super) fn start(limits: Limits, render: Render) -> Self {
        let (sender, requests) = mpsc::channel(limits.requests);
        tokio::spawn(render_all(limits, render, requests));
        Self { requests: sender }
    }

    /// An exposition whose numbers were read after this call. The reader must drop it, and its own
    /// `replaced`, when notified.
    pub(super) async fn exposition(&self, replaced: &Arc<Notify>) -> Result<Bytes, String> {
        let (answer, answered) = oneshot::channel();
        let request = Request { answer, replaced: Arc::downgrade(replaced) };
        // It ends only with the runtime.
        let gone = || "the agent is stopping".to_owned();
        self.requests.send(request).await.map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn render_all(limits: Limits, render: Render, mut requests: mpsc::Receiver<Request>) {
    let places = Arc::new(Semaphore::new(limits.expositions));
    let mut readers_oldest_first = VecDeque::<Vec<Weak<Notify>>>::new();
    while let Some(first) = requests.recv().await {
        let place = loop {
            match timeout(limits.patience, Arc::clone(&places).acquire_owned()).await {
                Ok(Ok(place)) => break place,
                // It is never closed.
                Ok(Err(_)) => return,
                Err(_) => {
                    readers_oldest_first.retain(|readers| readers.iter().any(|it| it.strong_count() > 0));
                    let oldest = readers_oldest_first.pop_front().unwrap_or_default();
                    oldest.iter().filter_map(Weak::upgrade).for_each(|reader| reader.notify_one());
                }
            }
        };
        let mut together = vec![first];
        while let Ok(request) = requests.try_recv() {
            together.push(request);
        }
        together.retain(|request| !request.answer.is_closed());
        if together.is_empty() {
            continue;
        }

        let render = Arc::clone(&render);
        let rendered = spawn_blocking(move || {
            render().map(|text| Bytes::from_owner(Exposition { text: text.into(), _place: place }))
        });
        let rendered = rendered.await.unwrap_or_else(|error| Err(error.to_string()));
        readers_oldest_first.retain(|readers| readers.iter().any(|it| it.strong_count() > 0));
        readers_oldest_first
            .push_back(together.iter().map(|request| Weak::clone(&request.replaced)).collect());
        for request in together {
            // A client that has closed its connection meanwhile gets none.
            let _ = request.answer.send(rendered.clone());
        }
    }
}

/// Keeps its place until the last reader drops it.
struct Exposition {
    text: Box<str>,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Exposition {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, mpsc};
    use std::task::Poll;
    use std::time::Duration;

    use tokio::runtime;
    use tokio::sync::Notify;

    use super::{Limits, Scrapes};

    #[test]
    fn requests_that_wait_share_the_next_exposition_and_none_gets_one_begun_before_it_asked()
    -> Result<(), Box<dyn Error>> {
        let (begin, begun) = tokio::sync::mpsc::unbounded_channel();
        let (finish, finished) = mpsc::channel::<()>();
        let (finished, count) = (Mutex::new(finished), AtomicUsize::new(0));
        let render = move || {
            begin.send(()).map_err(|error| error.to_string())?;
            finished.lock().map_err(|error| error.to_string())?.recv().map_err(|error| error.to_string())?;
            Ok(count.fetch_add(1, Ordering::SeqCst).to_string())
        };
        let mut begun = begun;
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let scrapes = Scrapes::start(LIMITS, Arc::new(render));
            let reader = Arc::new(Notify::new());
            let mut first = pin!(scrapes.exposition(&reader));
            let (mut second, mut third) =
                (pin!(scrapes.exposition(&reader)), pin!(scrapes.exposition(&reader)));
            poll_fn(|context| Poll::Ready(first.as_mut().poll(context).is_pending())).await;
            begun.recv().await.ok_or("nothing is rendered")?;
            for late in [&mut second, &mut third] {
                assert!(poll_fn(|context| Poll::Ready(late.as_mut().poll(context).is_pending())).await);
            }
            finish.send(())?;
            finish.send(())?;
            assert_eq!(first.await?, "0");
            let (second, third) = (second.await?, third.await?);
            assert_eq!((&second[..], second.as_ptr()), (&b"1"[..], third.as_ptr()));
            Ok(())
        })
    }

    #[test]
    fn no_more_expositions_are_in_memory_than_allowed() -> Result<(), Box<dyn Error>> {
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let scrapes = Scrapes::start(LIMITS, Arc::new(|| Ok("numbers".to_owned())));
            let readers = [(); LIMITS.expositions].map(|()| Arc::new(Notify::new()));
            let mut held = Vec::new();
            for reader in &readers {
                held.push(scrapes.exposition(reader).await?);
            }
            let next = Arc::new(Notify::new());
            let mut next = pin!(scrapes.exposition(&next));
            for reader in &readers {
                tokio::select! {
                    biased;
                    _ = &mut next => return Err("one too many".into()),
                    () = reader.notified() => {}
                }
            }
            held.pop();
            assert_eq!(next.await?, "numbers");
            Ok(())
        })
    }

    const LIMITS: Limits = Limits { expositions: 3, patience: Duration::from_millis(1), requests: 8 };
}
