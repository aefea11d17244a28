//! The one leaf that speaks to the kernel and the C library without a safe wrapper to be had: socket options and settings of
//! the allocator that no library offers.
#![allow(unsafe_code)]

use std::{io, mem, os::fd::AsRawFd};

/// Lets the kernel choose the source port when it knows the destination (`IP_BIND_ADDRESS_NO_PORT`, ip(7)): a bound
/// source address then does not limit all destinations together to one range of ephemeral ports.
pub(crate) fn bind_address_without_port(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open for the length of the borrow, and the kernel reads exactly the int pointed to.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            std::ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes a packet socket (packet(7)) one of this interface alone, for all protocols.
pub(crate) fn bind_to_interface(socket: &impl AsRawFd, index: i32) -> io::Result<()> {
    // SAFETY: all fields are numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::sa_family_t;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: the descriptor is open for the length of the borrow, and the kernel reads exactly the structure pointed to.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Tells the allocator what this process is like. Call it before there is a second thread.
pub(crate) fn settle_allocator() {
    #[cfg(target_env = "gnu")]
    {
        // The second thread only resolves names: it needs no heap of its own. Buffers for data under way (a quarter of a
        // MiB) come from the heap, which is not given back and taken again all the time; a large update of the control
        // plane is mapped by itself and leaves nothing behind.
        const SETTINGS: [(libc::c_int, libc::c_int); 3] = [
            (libc::M_ARENA_MAX, 1),
            (libc::M_MMAP_THRESHOLD, 1 << 20),
            (libc::M_TRIM_THRESHOLD, 4 << 20),
        ];
        for (setting, value) in SETTINGS {
            // SAFETY: takes two numbers; what it does not know it ignores.
            unsafe { libc::mallopt(setting, value) };
        }
    }
}

/// Lets go of every mapped page of code, ours and the C library's. They are the kernel's page cache, shared by all processes
/// that run the same file; a page is mapped again, without reading from disk as long as it is cached, when it is executed.
pub(crate) fn unmap_code() {
    let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
        return;
    };
    for (start, length) in maps.lines().filter_map(code) {
        // SAFETY: a range that the kernel has just said is a private mapping of a file, not writable, and executable: it was
        // never written to (no text relocations), so its pages hold what the file holds, and come back from it.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// Start and length of a line of `/proc/self/maps` (proc(5)), if it is code from a file.
fn code(line: &str) -> Option<(usize, usize)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let file = fields.nth(3)?;
    if permissions != "r-xp" || !file.starts_with('/') {
        return None;
    }
    let (start, end) = (
        usize::from_str_radix(start, 16).ok()?,
        usize::from_str_radix(end, 16).ok()?,
    );
    Some((start, end.checked_sub(start)?))
}

/// Gives memory that is free, but held by the allocator between pieces in use, back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time; pieces in use stay where they are.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_let_go() {
        let text = "55d0a000-55d0c000 r-xp 00001000 fe:00 1234                       /usr/bin/squire-proxy";
        assert_eq!(code(text), Some((0x55d0_a000, 0x2000)));
        for other in [
            "55d0a000-55d0c000 r--p 00001000 fe:00 1234                       /usr/bin/squire-proxy",
            "55d0a000-55d0c000 rw-p 00001000 fe:00 1234                       /usr/bin/squire-proxy",
            "7ffc1000-7ffc3000 r-xp 00000000 00:00 0                          [vdso]",
            "7f001000-7f003000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(code(other), None, "{other}");
        }
    }

    #[test]
    fn code_runs_on_after_it_was_let_go() {
        unmap_code();
        assert_eq!((1..=10).product::<u64>(), 3_628_800);
    }
}
