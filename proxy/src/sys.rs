//! The one leaf that speaks to the kernel without a safe wrapper to be had: socket options no library offers.
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
