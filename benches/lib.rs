//! The side-by-side harness is `peers/run.sh`: it starts servers one core each and prints how they compare. The servers
//! that it needs from us, beside the applications, are binaries of this package.
