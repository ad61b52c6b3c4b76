//! `wasi:filesystem`.

use crate::wasi::filesystem::preopens;
use crate::wasi::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, NewTimestamp, OpenFlags, PathFlags};
use crate::{Answer, Query};

/// What one read asks for.
const READ_BYTES: u64 = 64 << 10;

/// On `path` in the folder that the guest knows as `dir`.
pub fn answer(operation: &str, query: &Query) -> Answer {
    let folders = preopens::get_directories();
    if operation == "folders" {
        let mut names: Vec<_> = folders.iter().map(|(_, name)| format!("{name}\n")).collect();
        names.sort();
        return Answer::Found(names.concat().into_bytes());
    }
    let Some((folder, _)) = folders.iter().find(|(_, name)| name == query.text("dir")) else {
        return Answer::Nothing;
    };
    match run(operation, folder, query.text("path"), query) {
        Ok(text) => Answer::Found(text),
        Err(ErrorCode::NoEntry) => Answer::Nothing,
        Err(error) => Answer::Refused(error.name().to_owned()),
    }
}

fn run(operation: &str, folder: &Descriptor, path: &str, query: &Query) -> Result<Vec<u8>, ErrorCode> {
    match operation {
        "read" => return read(&open(folder, path, OpenFlags::empty(), DescriptorFlags::READ)?),
        "list" => return list(&open(folder, path, OpenFlags::DIRECTORY, DescriptorFlags::READ)?),
        "link" => return Ok(folder.readlink_at(path)?.into_bytes()),
        "size" => {
            let stat = folder.stat_at(PathFlags::SYMLINK_FOLLOW, path)?;
            return Ok(format!("{}\n", stat.size).into_bytes());
        }
        // Each file is held until all are open.
        "hold" => {
            let hold = |_| open(folder, path, OpenFlags::empty(), DescriptorFlags::READ);
            let held: Vec<_> = (0..query.number("count")).map(hold).collect::<Result<_, _>>()?;
            return Ok(format!("{} open\n", held.len()).into_bytes());
        }
        "create" => drop(open(folder, path, OpenFlags::CREATE, DescriptorFlags::WRITE)?),
        "truncate" => drop(open(folder, path, OpenFlags::TRUNCATE, DescriptorFlags::READ)?),
        "write" => drop(open(folder, path, OpenFlags::empty(), DescriptorFlags::WRITE)?),
        // By a handle that was opened to read.
        "overwrite" => {
            let file = open(folder, path, OpenFlags::empty(), DescriptorFlags::READ)?;
            file.write(b"mine", 0)?;
        }
        "shorten" => open(folder, path, OpenFlags::empty(), DescriptorFlags::READ)?.set_size(0)?,
        "touch" => {
            let now = NewTimestamp::Now;
            folder.set_times_at(PathFlags::SYMLINK_FOLLOW, path, now, now)?;
        }
        "remove" => folder.unlink_file_at(path)?,
        "make-folder" => folder.create_directory_at(path)?,
        "remove-folder" => folder.remove_directory_at(path)?,
        "rename" => folder.rename_at(path, folder, "renamed")?,
        "hard-link" => folder.link_at(PathFlags::empty(), path, folder, "linked")?,
        "make-link" => folder.symlink_at(path, "linked")?,
        _ => return Err(ErrorCode::Unsupported),
    }
    Ok(b"done\n".to_vec())
}

fn open(folder: &Descriptor, path: &str, open: OpenFlags, flags: DescriptorFlags) -> Result<Descriptor, ErrorCode> {
    folder.open_at(PathFlags::SYMLINK_FOLLOW, path, open, flags)
}

fn read(file: &Descriptor) -> Result<Vec<u8>, ErrorCode> {
    let mut text = Vec::new();
    loop {
        let (piece, is_end) = file.read(READ_BYTES, text.len() as u64)?;
        text.extend(piece);
        if is_end {
            return Ok(text);
        }
    }
}

fn list(folder: &Descriptor) -> Result<Vec<u8>, ErrorCode> {
    let entries = folder.read_directory()?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read_directory_entry()? {
        names.push(format!("{}\n", entry.name));
    }
    names.sort();
    Ok(names.concat().into_bytes())
}
