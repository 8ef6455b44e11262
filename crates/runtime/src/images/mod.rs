//! Images: what a container's root file system and its defaults are made from.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

/// An image that is present and unpacked. Whoever holds it keeps it from being removed by garbage collection.
pub struct Image {
    /// The digest of its configuration, `sha256:...`.
    pub id: String,
    pub config: ImageConfiguration,
    /// Unpacked layers, the lowest first, with overlayfs's whiteouts.
    pub layers: Vec<PathBuf>,
}
