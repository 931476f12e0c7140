//! The door interface of illumos' C library, declared by ourselves: the libc crate has it for Solaris only.
//!
//! The structures are those of `<door.h>` on x86-64, where two of them are packed to four bytes so that
//! 32-bit and 64-bit processes agree on them. Their sizes and offsets are checked when this file is compiled,
//! on Linux too.

#![allow(non_camel_case_types, reason = "these are the names in illumos' manual pages")]
#![allow(dead_code, reason = "the interface is declared whole")]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::mem::offset_of;

/// Deliver a notification when no process refers to the door any more.
pub const DOOR_UNREF: c_uint = 0x01;
/// The door has a pool of threads of its own.
pub const DOOR_PRIVATE: c_uint = 0x02;
/// The door belongs to the calling process.
pub const DOOR_LOCAL: c_uint = 0x04;
/// The door was revoked.
pub const DOOR_REVOKED: c_uint = 0x08;
/// As `DOOR_UNREF`, each time.
pub const DOOR_UNREF_MULTI: c_uint = 0x10;
/// No process refers to the door now.
pub const DOOR_IS_UNREF: c_uint = 0x20;
/// Callers may not send descriptors.
pub const DOOR_REFUSE_DESC: c_uint = 0x40;
/// A caller that goes away does not cancel the thread that serves it.
pub const DOOR_NO_CANCEL: c_uint = 0x80;
/// `door_xcreate` only: the pool has a fixed size.
pub const DOOR_NO_DEPLETION_CB: c_uint = 0x100;
/// An entry of `door_desc_t` is a file descriptor.
pub const DOOR_DESCRIPTOR: c_uint = 0x10000;
/// A descriptor that is sent is closed on the sender's side.
pub const DOOR_RELEASE: c_uint = 0x40000;

/// `door_getparam`: the most descriptors of a request.
pub const DOOR_PARAM_DESC_MAX: c_int = 1;
/// `door_getparam`: the most bytes of a request.
pub const DOOR_PARAM_DATA_MAX: c_int = 2;
/// `door_getparam`: the fewest bytes of a request.
pub const DOOR_PARAM_DATA_MIN: c_int = 3;

/// The address that a notification has instead of a request's: `DOOR_UNREF_DATA`.
pub const DOOR_UNREF_DATA: usize = 1;

/// A descriptor on its way through a door.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct door_desc_t {
    pub d_attributes: c_uint,
    pub d_descriptor: c_int,
    pub d_id: u64,
    pub d_resv: [c_int; 2],
}

/// What `door_info` tells.
#[derive(Clone, Copy, Debug)]
#[repr(C, packed(4))]
pub struct door_info_t {
    pub di_target: libc::pid_t,
    pub di_proc: u64,
    pub di_data: u64,
    pub di_attributes: c_uint,
    pub di_uniquifier: u64,
    pub di_resv: [c_int; 4],
}

/// What goes into `door_call` and comes out of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct door_arg_t {
    pub data_ptr: *mut c_char,
    pub data_size: usize,
    pub desc_ptr: *mut door_desc_t,
    pub desc_num: c_uint,
    pub rbuf: *mut c_char,
    pub rsize: usize,
}

const _: () = assert!(size_of::<door_desc_t>() == 24 && align_of::<door_desc_t>() == 4);
const _: () = assert!(
    offset_of!(door_desc_t, d_attributes) == 0
        && offset_of!(door_desc_t, d_descriptor) == 4
        && offset_of!(door_desc_t, d_id) == 8
        && offset_of!(door_desc_t, d_resv) == 16
);
const _: () = assert!(size_of::<door_info_t>() == 48 && align_of::<door_info_t>() == 4);
const _: () = assert!(
    offset_of!(door_info_t, di_target) == 0
        && offset_of!(door_info_t, di_proc) == 4
        && offset_of!(door_info_t, di_data) == 12
        && offset_of!(door_info_t, di_attributes) == 20
        && offset_of!(door_info_t, di_uniquifier) == 24
        && offset_of!(door_info_t, di_resv) == 32
);
const _: () = assert!(size_of::<door_arg_t>() == 48 && align_of::<door_arg_t>() == 8);
const _: () = assert!(
    offset_of!(door_arg_t, data_ptr) == 0
        && offset_of!(door_arg_t, data_size) == 8
        && offset_of!(door_arg_t, desc_ptr) == 16
        && offset_of!(door_arg_t, desc_num) == 24
        && offset_of!(door_arg_t, rbuf) == 32
        && offset_of!(door_arg_t, rsize) == 40
);
// The packing above is what illumos does on x86-64; another machine's has to be looked up first.
const _: () = assert!(cfg!(target_pointer_width = "64"));
#[cfg(all(target_os = "illumos", not(target_arch = "x86_64")))]
compile_error!(
    "the layout of the door structures is known for x86-64 only: add this machine's to ffi.rs"
);

impl door_info_t {
    /// An empty one, to be filled by `door_info`.
    pub const EMPTY: Self = Self {
        di_target: 0,
        di_proc: 0,
        di_data: 0,
        di_attributes: 0,
        di_uniquifier: 0,
        di_resv: [0; 4],
    };
}

impl door_desc_t {
    /// The entry that sends `descriptor` and closes it here.
    pub const fn giving(descriptor: c_int) -> Self {
        Self {
            d_attributes: DOOR_DESCRIPTOR | DOOR_RELEASE,
            ..Self::sending(descriptor)
        }
    }

    /// The entry that sends `descriptor` and leaves it open here.
    pub const fn sending(descriptor: c_int) -> Self {
        Self {
            d_attributes: DOOR_DESCRIPTOR,
            d_descriptor: descriptor,
            d_id: 0,
            d_resv: [0; 2],
        }
    }
}

/// A caller's credentials, as the C library keeps them.
#[derive(Debug)]
#[repr(C)]
pub struct ucred_t {
    opaque: [u8; 0],
}

/// What runs when a door is called. Does not return: it calls `door_return`.
pub type door_server_procedure_t =
    unsafe extern "C" fn(*mut c_void, *mut c_char, usize, *mut door_desc_t, c_uint);

/// What runs when a pool has lost its last idle thread.
pub type door_server_func_t = unsafe extern "C" fn(*mut door_info_t);

/// The same for a door made by `door_xcreate`.
pub type door_xcreate_server_func_t = unsafe extern "C" fn(
    *mut door_info_t,
    Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
    *mut c_void,
    *mut c_void,
) -> c_int;

/// What a thread of such a door does first.
pub type door_xcreate_thrsetup_func_t = unsafe extern "C" fn(*mut c_void);

unsafe extern "C" {
    pub fn door_create(
        server_procedure: door_server_procedure_t,
        cookie: *mut c_void,
        attributes: c_uint,
    ) -> c_int;
    pub fn door_xcreate(
        server_procedure: door_server_procedure_t,
        cookie: *mut c_void,
        attributes: c_uint,
        create: Option<door_xcreate_server_func_t>,
        setup: Option<door_xcreate_thrsetup_func_t>,
        create_cookie: *mut c_void,
        threads: c_int,
    ) -> c_int;
    pub fn door_server_create(create: Option<door_server_func_t>) -> Option<door_server_func_t>;
    pub fn door_call(door: c_int, params: *mut door_arg_t) -> c_int;
    pub fn door_return(
        data: *mut c_char,
        data_size: usize,
        descriptors: *mut door_desc_t,
        descriptors_len: c_uint,
    ) -> c_int;
    pub fn door_bind(door: c_int) -> c_int;
    pub fn door_unbind() -> c_int;
    pub fn door_revoke(door: c_int) -> c_int;
    pub fn door_info(door: c_int, info: *mut door_info_t) -> c_int;
    pub fn door_getparam(door: c_int, param: c_int, value: *mut usize) -> c_int;
    pub fn door_setparam(door: c_int, param: c_int, value: usize) -> c_int;
    pub fn door_ucred(credentials: *mut *mut ucred_t) -> c_int;
    pub fn ucred_free(credentials: *mut ucred_t);
    pub fn ucred_getpid(credentials: *const ucred_t) -> libc::pid_t;
    pub fn ucred_geteuid(credentials: *const ucred_t) -> libc::uid_t;
    pub fn ucred_getegid(credentials: *const ucred_t) -> libc::gid_t;
    pub fn fattach(descriptor: c_int, path: *const c_char) -> c_int;
    pub fn fdetach(path: *const c_char) -> c_int;
    pub fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// `pthread_setcancelstate`: do not cancel this thread. illumos' number, which is not Linux's.
pub const PTHREAD_CANCEL_DISABLE: c_int = 0x01;
