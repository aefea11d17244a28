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

/// Gives memory that is free, but held by the allocator between pieces in use, back to the kernel.
pub(crate) fn trim_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: may be called at any time; pieces in use stay where they are.
    unsafe {
        libc::malloc_trim(0);
    }
}
