//! A small file system of its own for a directory, so that it can be full.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::product::Product;

/// A tmpfs; gone when this is dropped.
pub struct Small(pub PathBuf);

impl Small {
    /// On an empty directory, or over what is there; `options` as mount(8) takes them.
    #[track_caller]
    pub fn on(dir: &Path, options: &str) -> Small {
        let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
        nix::mount::mount(none, dir, Some("tmpfs"), flags, Some(options)).expect("tmpfs");
        Small(dir.into())
    }

    /// For the log of a product, which moves there.
    #[track_caller]
    pub fn under(product: &Product, size: &str) -> Small {
        product.move_log(|dir| Small::on(dir, &format!("size={size}")))
    }

    /// Leaves no byte free.
    pub fn fill(&self) {
        let mut file = std::fs::File::create(self.0.join("filler")).expect("filler");
        while file.write_all(&[0; 4096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    /// Takes back what [`Small::fill`] took.
    pub fn clear(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("remove");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}
