//! `wasi:filesystem`.

use crate::wasi::filesystem::preopens;
use crate::wasi::filesystem::types::{Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags};
use crate::{Answer, Query};

/// On `path` in the folder that the guest knows as `dir`.
pub async fn answer(operation: &str, query: &Query<'_>) -> Answer {
    let folders = preopens::get_directories();
    let Some((folder, _)) = folders.iter().find(|(_, name)| name == query.text("dir")) else {
        return Answer::Nothing;
    };
    match run(operation, folder, query).await {
        Ok(text) => Answer::Found(text),
        Err(ErrorCode::NoEntry) => Answer::Nothing,
        // As in 0.2: `ErrorCode::NotPermitted` is `not-permitted`.
        Err(error) => Answer::Refused(format!("{error:?}").to_lowercase()),
    }
}

async fn run(operation: &str, folder: &Descriptor, query: &Query<'_>) -> Result<Vec<u8>, ErrorCode> {
    let path = query.text("path");
    match operation {
        "read" => {
            let file = open(folder, path, OpenFlags::empty(), DescriptorFlags::READ).await?;
            let (text, ended) = file.read_via_stream(0);
            let text = text.collect().await;
            ended.await.map(|()| text)
        }
        // Each file is held until all are open.
        "hold" => {
            let mut held = Vec::new();
            for _ in 0..query.number("count") {
                held.push(open(folder, path, OpenFlags::empty(), DescriptorFlags::READ).await?);
            }
            Ok(format!("{} open\n", held.len()).into_bytes())
        }
        "create" => {
            open(folder, path, OpenFlags::CREATE, DescriptorFlags::WRITE).await?;
            Ok(b"done\n".to_vec())
        }
        "remove" => {
            folder.unlink_file_at(path.to_owned()).await?;
            Ok(b"done\n".to_vec())
        }
        _ => Err(ErrorCode::Unsupported),
    }
}

async fn open(
    folder: &Descriptor,
    path: &str,
    open: OpenFlags,
    flags: DescriptorFlags,
) -> Result<Descriptor, ErrorCode> {
    folder
        .open_at(PathFlags::SYMLINK_FOLLOW, path.to_owned(), open, flags)
        .await
}
