//! Short programs that use the library; see the files beside this folder.
