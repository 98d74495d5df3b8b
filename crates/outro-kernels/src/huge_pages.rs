//! Memory for weights and activations: large blocks ask for huge pages, without which a processor spends a sixth of the
//! time in which it streams weights on looking up addresses.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, with blocks of at least 4 MiB mapped on their own and advised to lie in huge pages (Linux; the
/// system allocator alone elsewhere). A program that runs models makes it its global allocator:
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: outro_kernels::HugePages = outro_kernels::HugePages;
/// # fn main() { assert_eq!(vec![1u8; 5 << 20].len(), 5 << 20); }
/// ```
pub struct HugePages;

#[cfg(not(target_os = "linux"))]
// SAFETY: every call is the system allocator's.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(block, layout) }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::{GlobalAlloc, HugePages, Layout, System};
    use std::ptr::null_mut;

    /// Whether a block is mapped on its own. Depends on nothing but the layout, so that freeing decides alike.
    fn mapped(size: usize, align: usize) -> bool {
        size >= 4 << 20 && align <= 4096
    }

    /// Zeroed memory, or null.
    fn map(size: usize) -> *mut u8 {
        // SAFETY: a new anonymous mapping touches nothing that exists.
        let block = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(
                null_mut(),
                size,
                access,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        advise(block, size)
    }

    /// Asks for huge pages; a kernel without them leaves the block as it is. Null where there is no block.
    fn advise(block: *mut libc::c_void, size: usize) -> *mut u8 {
        if block == libc::MAP_FAILED {
            return null_mut();
        }
        // SAFETY: the whole range was just mapped.
        unsafe { libc::madvise(block, size, libc::MADV_HUGEPAGE) };
        block.cast()
    }

    // SAFETY: blocks of `mapped` layouts are mappings of their own, all others the system allocator's; `mapped` is asked
    // of the layout with which a block was made.
    unsafe impl GlobalAlloc for HugePages {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if mapped(layout.size(), layout.align()) {
                map(layout.size())
            } else {
                // SAFETY: the caller's contract.
                unsafe { System.alloc(layout) }
            }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            if mapped(layout.size(), layout.align()) {
                map(layout.size())
            } else {
                // SAFETY: the caller's contract.
                unsafe { System.alloc_zeroed(layout) }
            }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            // SAFETY: the caller's contract, and the block was made in the same way.
            unsafe {
                if mapped(layout.size(), layout.align()) {
                    libc::munmap(block.cast(), layout.size());
                } else {
                    System.dealloc(block, layout);
                }
            }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            let (old, new) = (
                mapped(layout.size(), layout.align()),
                mapped(size, layout.align()),
            );
            // SAFETY: the caller's contract; a block that changes its kind is copied up to the shorter length.
            unsafe {
                match (old, new) {
                    (false, false) => System.realloc(block, layout, size),
                    (true, true) => advise(
                        libc::mremap(block.cast(), layout.size(), size, libc::MREMAP_MAYMOVE),
                        size,
                    ),
                    _ => {
                        let to = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
                        if !to.is_null() {
                            std::ptr::copy_nonoverlapping(block, to, size.min(layout.size()));
                            self.dealloc(block, layout);
                        }
                        to
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_contents() {
        let pages = HugePages;
        let size = |n: usize| Layout::from_size_align(n, 64).unwrap();
        // From small to mapped, longer, shorter, and back.
        let sizes = [1000, 5 << 20, 9 << 20, 6 << 20, 2000];
        // SAFETY: each block is used within the layout with which it was made, and freed once.
        unsafe {
            let mut block = pages.alloc(size(sizes[0]));
            for i in 0..sizes[0] {
                *block.add(i) = (i % 251) as u8;
            }
            for pair in sizes.windows(2) {
                block = pages.realloc(block, size(pair[0]), pair[1]);
                assert!(!block.is_null() && block.addr().is_multiple_of(64));
                assert!((0..1000).all(|i| *block.add(i) == (i % 251) as u8));
            }
            pages.dealloc(block, size(2000));
            let zero = pages.alloc_zeroed(size(5 << 20));
            assert!((0..5 << 20).step_by(4095).all(|i| *zero.add(i) == 0));
            pages.dealloc(zero, size(5 << 20));
            assert!(pages.alloc(size(usize::MAX / 4)).is_null());
        }
    }
}
