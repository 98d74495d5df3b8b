//! An output that tasks write together.

/// A shared output of which every task writes other elements.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);
// SAFETY: tasks write disjoint elements, and the borrow of the output outlives them all.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(out: &mut [f32]) -> Self {
        Self(out.as_mut_ptr())
    }

    /// # Safety
    /// `start + row.len()` lies inside the output, and no other task writes there.
    pub(crate) unsafe fn write(self, start: usize, row: &[f32]) {
        // SAFETY: the caller's contract.
        unsafe { std::ptr::copy_nonoverlapping(row.as_ptr(), self.0.add(start), row.len()) }
    }
}
