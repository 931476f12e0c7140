//! The back end for Linux has the interface that every back end has.
#![allow(missing_docs)]

mod interface;

interface::conforms!(linux, transom_doors);
