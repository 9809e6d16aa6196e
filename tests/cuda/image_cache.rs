//! The build's store of compiled images: whole images or none, whatever was written and by how many at once.

use crate::build_script::build::cache::Cache;
use crate::folder::Folder;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

impl Folder {
    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn an_image_is_found_by_what_it_was_made_from() {
    let folder = Folder::new("found");
    let cache = Cache::at(&folder.0);
    assert_eq!(cache.find("a", "recipe"), None);
    cache.keep("a", "recipe", b"image\n\0").unwrap();
    cache.keep("a", "another", b"").unwrap();
    assert_eq!(cache.find("a", "recipe").unwrap(), b"image\n\0");
    assert_eq!(cache.find("a", "another").unwrap(), b"");
    assert_eq!(cache.find("b", "recipe"), None);
    assert_eq!(cache.find("a", "recip"), None);
    // As if two recipes had one hash.
    let places = folder.files();
    let [one, other] = places.as_slice() else {
        panic!("{places:?}")
    };
    let (first, second) = (fs::read(one).unwrap(), fs::read(other).unwrap());
    fs::write(one, second).unwrap();
    fs::write(other, first).unwrap();
    assert_eq!(cache.find("a", "recipe"), None);
    assert_eq!(cache.find("a", "another"), None);
}

#[test]
fn a_damaged_entry_is_never_used() {
    let folder = Folder::new("damaged");
    let cache = Cache::at(&folder.0);
    cache.keep("a", "recipe", b"image").unwrap();
    let place = folder.files().remove(0);
    let whole = fs::read(&place).unwrap();
    for length in 0..whole.len() {
        fs::write(&place, &whole[..length]).unwrap();
        assert_eq!(cache.find("a", "recipe"), None, "{length} bytes");
    }
    for (at, bit) in (0..whole.len()).flat_map(|at| [(at, 1), (at, 128)]) {
        let mut damaged = whole.clone();
        damaged[at] ^= bit;
        fs::write(&place, &damaged).unwrap();
        assert_eq!(cache.find("a", "recipe"), None, "byte {at}");
    }
    fs::write(&place, [&whole[..], b"!"].concat()).unwrap();
    assert_eq!(cache.find("a", "recipe"), None, "a byte too many");
    cache.keep("a", "recipe", b"image").unwrap();
    assert_eq!(cache.find("a", "recipe").unwrap(), b"image");
}

#[test]
fn builds_that_race_read_whole_images() {
    let folder = Folder::new("race");
    let cache = &Cache::at(&folder.0);
    let images = [vec![1u8; 300_000], vec![2u8; 200_000]];
    cache.keep("a", "recipe", &images[0]).unwrap();
    let done = &AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = images
            .iter()
            .map(|image| {
                scope.spawn(move || {
                    for _ in 0..50 {
                        cache.keep("a", "recipe", image).unwrap();
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) || reads == 0 {
                let found = cache.find("a", "recipe").expect("a whole image");
                assert!(images.contains(&found));
                reads += 1;
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        reader.join().unwrap();
    });
    assert_eq!(folder.files().len(), 1, "nothing is left beside it");
    assert!(cache.keep("a", "recipe", b"").is_ok());
    let file = &folder.files()[0];
    let nowhere = Cache::at(Path::new(file));
    assert!(nowhere.keep("a", "recipe", b"").is_err());
    assert_eq!(nowhere.find("a", "recipe"), None);
}
