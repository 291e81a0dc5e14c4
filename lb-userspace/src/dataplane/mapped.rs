//! Arrays of the kernel, mapped: read and written word by word, without a system call each.
//!
//! All access goes through `AtomicU64`, so the safe interface holds whatever the kernel writes
//! meanwhile: a record may be read half old and half new, a word never.

use std::{
    io,
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{Pod, maps::MapData};
use lb_common::{
    endpoint::table,
    flow::{NarrowBucket, WideBucket},
};

/// A mapping of a `BPF_F_MMAPABLE` array whose values are `T`.
pub struct Mapped<T> {
    base: NonNull<AtomicU64>,
    entries: u32,
    record: PhantomData<T>,
}

// SAFETY: the mapping is shared memory that is only touched through atomics, and lives until drop.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    const WORDS: usize = size_of::<T>() / 8;

    /// Maps the whole array.
    pub fn open(map: &MapData) -> io::Result<Self> {
        const { assert!(size_of::<T>().is_multiple_of(8) && size_of::<T>() != 0) };
        let info = map.info().map_err(io::Error::other)?;
        if info.value_size() as usize != size_of::<T>() {
            return Err(io::Error::other(format!(
                "values of {} bytes where {} are expected",
                info.value_size(),
                size_of::<T>()
            )));
        }
        let length = info.max_entries() as usize * size_of::<T>();
        // SAFETY: a fresh shared mapping of the map's fd; the kernel checks length and permission.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.fd().as_fd().as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        Ok(Self { base, entries: info.max_entries(), record: PhantomData })
    }

    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.entries) * size_of::<T>() as u64
    }

    /// The words of one value.
    pub fn words(&self, index: u32) -> Option<&[AtomicU64]> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: in bounds of the mapping, which is page-aligned and lives as long as `self`;
        // AtomicU64 has the layout of u64.
        Some(unsafe {
            std::slice::from_raw_parts(self.base.as_ptr().add(index as usize * Self::WORDS), Self::WORDS)
        })
    }
}

impl<T> Mapped<T> {
    /// All words, as they are now.
    pub fn all_words(&self) -> Vec<u64> {
        let words = self.entries as usize * Self::WORDS;
        // SAFETY: the whole mapping; see `words`.
        let all = unsafe { std::slice::from_raw_parts(self.base.as_ptr(), words) };
        all.iter().map(|word| word.load(Ordering::Acquire)).collect()
    }
}

impl<T: Pod> Mapped<T> {
    pub fn get(&self, index: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        for (at, word) in self.words(index)?.iter().enumerate() {
            let word = word.load(Ordering::Acquire);
            // SAFETY: T is plain data of exactly these words (`open` asserts the size).
            unsafe { value.as_mut_ptr().cast::<u64>().add(at).write_unaligned(word) }
        }
        // SAFETY: every word of it was written, and any bits are valid for plain data.
        Some(unsafe { value.assume_init() })
    }

    /// Stores the words from `from` on, in order. False if there is no such entry.
    pub fn set_from(&self, index: u32, value: &T, from: usize) -> bool {
        let Some(words) = self.words(index) else { return false };
        let mut new = vec![0u64; Self::WORDS];
        // SAFETY: T is plain data of exactly these bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(
                std::ptr::from_ref(value).cast::<u8>(),
                new.as_mut_ptr().cast::<u8>(),
                size_of::<T>(),
            );
        }
        for (word, new) in words.iter().zip(new).skip(from) {
            word.store(new, Ordering::Release);
        }
        true
    }

    pub fn set(&self, index: u32, value: &T) -> bool {
        self.set_from(index, value, 0)
    }
}

impl Mapped<NarrowBucket<u64>> {
    pub fn bucket(&self, index: u32) -> Option<&NarrowBucket<AtomicU64>> {
        let words = self.words(index)?;
        // SAFETY: repr(C) of exactly these words, and AtomicU64 has the layout of u64.
        Some(unsafe { &*words.as_ptr().cast() })
    }
}

impl Mapped<WideBucket<u64>> {
    pub fn bucket(&self, index: u32) -> Option<&WideBucket<AtomicU64>> {
        let words = self.words(index)?;
        // SAFETY: as above.
        Some(unsafe { &*words.as_ptr().cast() })
    }
}

impl Mapped<table::Bucket<u64>> {
    pub fn bucket(&self, index: u32) -> Option<&table::Bucket<AtomicU64>> {
        let words = self.words(index)?;
        // SAFETY: as above.
        Some(unsafe { &*words.as_ptr().cast() })
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `open` made; nothing borrowed from it outlives `self`.
        unsafe {
            libc::munmap(self.base.as_ptr().cast(), self.entries as usize * size_of::<T>());
        }
    }
}
