//! Which names a file in a repository may have here.

/// The most bytes of a whole name; systems allow 4096 for a path with all that stands before it.
pub(crate) const MAX_NAME: usize = 1024;

/// The most bytes of one part.
const MAX_PART: usize = 255;

/// Whether `name` is a relative path of plain parts, which stays below the directory that it is joined with on every system.
pub(crate) fn is_file_name(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.len() <= MAX_PART && !matches!(part, "." | "..");
    name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control() || matches!(c, '\\' | ':')) && name.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::is_file_name;

    #[test]
    fn names_stay_below_their_directory() {
        for name in
            ["config.json", "onnx/model_q4.onnx", "a b/c+d.txt", "1_Pooling/config.json", ".gitattributes", "...", "é.txt"]
        {
            assert!(is_file_name(name), "{name}");
        }
        let long = format!("a/{}", "b".repeat(4096));
        let deep = "a/".repeat(2048) + "b";
        for name in
            ["", "/etc/passwd", "../x", "a/../x", "a/./x", "a//x", "a/", "..", "a\\..\\x", "C:x", "a\0b", "a\nb", &long, &deep]
        {
            assert!(!is_file_name(name), "{name}");
        }
    }
}
