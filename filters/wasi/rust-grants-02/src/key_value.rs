//! `wasi:keyvalue`.

use crate::wasi::keyvalue::store::{self, Bucket, Error};
use crate::wasi::keyvalue::{atomics, batch};
use crate::{Answer, Query};

/// `rest` is an operation and, after a slash, a key.
pub fn answer(rest: &str, query: &Query) -> Answer {
    let (operation, key) = rest.split_once('/').unwrap_or((rest, ""));
    match run(operation, key, query) {
        Ok(answer) => answer,
        Err(Error::Other(why)) => Answer::Refused(why),
        Err(error) => Answer::Refused(format!("{error:?}")),
    }
}

fn run(operation: &str, key: &str, query: &Query) -> Result<Answer, Error> {
    let bucket = store::open(query.text("bucket"))?;
    let (count, bytes) = (query.number("count"), query.number("bytes"));
    Ok(match operation {
        "open" => {
            let opened: Result<Vec<_>, _> = (0..count).map(|_| store::open("")).collect();
            text(format!("{} more\n", opened?.len()))
        }
        "get" => bucket.get(key)?.map_or(Answer::Nothing, Answer::Found),
        "set" => done(bucket.set(key, query.text("value").as_bytes())?),
        "fill" => done(bucket.set(key, &vec![b'x'; bytes])?),
        // A key that is as long as all that.
        "long" => done(bucket.set(&"k".repeat(bytes), b"")?),
        "exists" => text(format!("{}\n", bucket.exists(key)?)),
        "delete" => done(bucket.delete(key)?),
        "list" => list(&bucket, |_| Ok(()))?,
        "drain" => list(&bucket, |keys| keys.iter().try_for_each(|key| bucket.delete(key)))?,
        // As whoever makes up a place to go on.
        "from" => {
            let page = bucket.list_keys(Some(query.text("cursor").parse().unwrap_or(0)))?;
            text(format!("{} keys\n", page.keys.len()))
        }
        "increment" => text(format!(
            "{}\n",
            atomics::increment(&bucket, key, query.text("by").parse().unwrap_or(1))?
        )),
        "set-many" => {
            let value = vec![b'x'; bytes];
            let pairs: Vec<_> = names(key, count).map(|name| (name, value.clone())).collect();
            done(batch::set_many(&bucket, &pairs)?)
        }
        // The same again and again.
        "get-many" => {
            let found = batch::get_many(&bucket, &vec![key.to_owned(); count])?;
            let bytes: usize = found.iter().flatten().map(|(_, value)| value.len()).sum();
            text(format!("{} values, {bytes} bytes\n", found.iter().flatten().count()))
        }
        "delete-many" => done(batch::delete_many(&bucket, &names(key, count).collect::<Vec<_>>())?),
        _ => Answer::Nothing,
    })
}

fn names(prefix: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{prefix}{number}"))
}

/// All keys in their order, page by page; of many only the number.
fn list(bucket: &Bucket, each: impl Fn(&[String]) -> Result<(), Error>) -> Result<Answer, Error> {
    let (mut keys, mut pages, mut cursor) = (Vec::new(), 0, None);
    loop {
        let page = bucket.list_keys(cursor)?;
        each(&page.keys)?;
        keys.extend(page.keys);
        pages += 1;
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    if keys.len() > 10 {
        return Ok(text(format!("{} keys on {pages} pages\n", keys.len())));
    }
    Ok(text(keys.iter().map(|key| format!("{key}\n")).collect()))
}

fn done((): ()) -> Answer {
    text("done\n".to_owned())
}

fn text(text: String) -> Answer {
    Answer::Found(text.into_bytes())
}
