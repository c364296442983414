use std::{
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rand_core::{CryptoRng, TryCryptoRng, TryRng};

/// One random source for all tasks of a transport. Cheap to clone; all clones draw from the same source, each in turn.
#[derive(Clone)]
pub struct SharedRandom(Arc<Mutex<Box<dyn CryptoRng + Send>>>);

impl SharedRandom {
    /// Shares a source.
    pub fn new(random: Box<dyn CryptoRng + Send>) -> Self {
        Self(Arc::new(Mutex::new(random)))
    }

    fn with<T>(&self, take: impl FnOnce(&mut dyn CryptoRng) -> T) -> T {
        take(&mut **self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TryRng for SharedRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.with(|random| random.next_u32()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.with(|random| random.next_u64()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.with(|random| random.fill_bytes(bytes));
        Ok(())
    }
}

impl TryCryptoRng for SharedRandom {}

impl fmt::Debug for SharedRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedRandom")
    }
}
