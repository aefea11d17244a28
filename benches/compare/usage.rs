//! What a process and its descendants have used: CPU time and memory, from `/proc`. Reads only; never signals or traces anything.

use std::fs;
use std::ops::{Add, Sub};
use std::time::Duration;

use anyhow::{Context, Result};

/// CPU time, all threads together (also those that have ended).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Time in user space.
    pub(crate) user: Duration,
    /// Time in the kernel on the process's behalf.
    pub(crate) system: Duration,
}

impl Cpu {
    /// User and system together.
    pub(crate) fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

impl Sub for Cpu {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            user: self.user.saturating_sub(other.user),
            system: self.system.saturating_sub(other.system),
        }
    }
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Resident set.
    pub(crate) rss: u64,
    /// Resident set with shared pages divided among those who share them.
    pub(crate) pss: u64,
}

/// CPU time of the process `pid` and its living descendants.
pub(crate) fn cpu(pid: u32) -> Result<Cpu> {
    let mut sum = Cpu::default();
    for pid in tree(pid) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        sum = sum + parse_stat(&stat, rustix::param::clock_ticks_per_second()).context("unreadable /proc/PID/stat")?;
    }
    Ok(sum)
}

/// Memory of the process `pid` and its descendants.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let mut sum = Memory::default();
    for pid in tree(pid) {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let one = parse_rollup(&rollup).context("unreadable /proc/PID/smaps_rollup")?;
        sum = Memory {
            rss: sum.rss + one.rss,
            pss: sum.pss + one.pss,
        };
    }
    Ok(sum)
}

/// `pid` and every descendant.
fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(children(parent));
        next += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| {
            list.split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// Fields 14 and 15 of proc(5)'s `stat`; the command name (field 2) may itself hold spaces and parentheses.
fn parse_stat(stat: &str, ticks_per_second: u64) -> Option<Cpu> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u64>().ok();
    let (user, system) = (ticks()?, ticks()?);
    let duration = |ticks: u64| Duration::from_millis(ticks * 1000 / ticks_per_second.max(1));
    Some(Cpu {
        user: duration(user),
        system: duration(system),
    })
}

fn parse_rollup(rollup: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = rollup.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Some(Memory {
        rss: field("Rss:")?,
        pss: field("Pss:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_with_a_hostile_name_is_read_at_the_right_fields() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 75 0 0 20 0 1 0 12345 1 2 3";
        let cpu = parse_stat(stat, 100).unwrap();
        assert_eq!(
            cpu,
            Cpu {
                user: Duration::from_millis(2500),
                system: Duration::from_millis(750)
            }
        );
        assert_eq!(parse_stat("42 (x) S 1", 100), None);
    }

    #[test]
    fn rollup_takes_rss_and_pss() {
        let rollup = "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss:    2048 kB\nPss:    1024 kB\nPss_Dirty:  9 kB\n";
        assert_eq!(parse_rollup(rollup), Some(Memory { rss: 2048, pss: 1024 }));
    }

    #[test]
    fn this_process_uses_memory_and_its_time_grows() {
        let before = cpu(std::process::id()).unwrap();
        let mut sum = 0u64;
        while (cpu(std::process::id()).unwrap() - before).total() < Duration::from_millis(20) {
            sum = sum.wrapping_add((0..10_000u64).fold(0, |a, b| std::hint::black_box(a ^ b)));
        }
        assert!(memory(std::process::id()).unwrap().rss > 100, "{sum}");
    }
}
