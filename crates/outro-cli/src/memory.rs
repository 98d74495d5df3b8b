//! The machine's memory.

/// Bytes in all and bytes that are free, where the system says.
pub(crate) fn total_and_free() -> (Option<u64>, Option<u64>) {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let rest = info.lines().find_map(|l| l.strip_prefix(name))?;
        rest.trim()
            .strip_suffix("kB")?
            .trim()
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    (field("MemTotal:"), field("MemAvailable:"))
}
