//! The one place where an error becomes an errno (F2).

use fuser::Errno;

use crate::vfs::Error;

/// What the program sees.
pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::NotFound => Errno::ENOENT,
        Error::Exists => Errno::EEXIST,
        Error::NotADirectory => Errno::ENOTDIR,
        Error::IsADirectory => Errno::EISDIR,
        Error::NotEmpty => Errno::ENOTEMPTY,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::BadName(_) | Error::Invalid(_) => Errno::EINVAL,
        Error::BadHandle => Errno::EBADF,
        // EPERM says "not by anybody", EACCES "not by you": cp -p and tar go on after EPERM from chown or chmod.
        Error::NotPermitted(_) => Errno::EPERM,
        Error::Denied(_) => Errno::EACCES,
        Error::ReadOnly => Errno::EROFS,
        // mv(1) copies and deletes when it sees this one.
        Error::CrossDevice(_) => Errno::EXDEV,
        // Not ENOSYS: the kernel would take that for "never ask again", for every file.
        Error::Unsupported => Errno::EOPNOTSUPP,
        Error::NoAttribute => Errno::ENODATA,
        Error::NoData => Errno::ENXIO,
        // setxattr(2) has ENOSPC for "no room for this attribute"; E2BIG would be about the value alone.
        Error::AttributesFull | Error::NoSpace => Errno::ENOSPC,
        Error::BufferTooSmall => Errno::ERANGE,
        Error::Stale => Errno::ESTALE,
        Error::TooLarge => Errno::EFBIG,
        Error::Quota(_) => Errno::EDQUOT,
        Error::Busy(_) => Errno::EBUSY,
        Error::TimedOut(_) => Errno::ETIMEDOUT,
        // A mount that is being stopped is no device that went away: programs retry or report EIO, but some treat ENODEV as "no such file".
        Error::Io(_) | Error::Stopping => Errno::EIO,
    }
}

/// What the program sees, as errno(3) spells it.
pub fn errno_name(error: &Error) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno(error).code()))
}

/// Whether a person should hear of it: the program's own mistakes and everyday answers are not news, what the bucket or the host did is.
pub(super) fn is_trouble(errno: Errno) -> bool {
    [Errno::EIO, Errno::ETIMEDOUT, Errno::EACCES, Errno::EDQUOT, Errno::ENOSPC, Errno::ESTALE, Errno::EBUSY].contains(&errno)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::support::NoProgress;
    use crate::vfs::Why;

    #[test]
    fn each_error_has_its_errno() {
        let text = || Why::from("why");
        let table = [
            (Error::NotFound, Errno::ENOENT),
            (Error::Exists, Errno::EEXIST),
            (Error::NotADirectory, Errno::ENOTDIR),
            (Error::IsADirectory, Errno::EISDIR),
            (Error::NotEmpty, Errno::ENOTEMPTY),
            (Error::NameTooLong, Errno::ENAMETOOLONG),
            (Error::BadName("a NUL"), Errno::EINVAL),
            (Error::Invalid("into itself"), Errno::EINVAL),
            (Error::BadHandle, Errno::EBADF),
            (Error::NotPermitted("no hard links"), Errno::EPERM),
            (Error::ReadOnly, Errno::EROFS),
            (Error::Denied(text()), Errno::EACCES),
            (Error::CrossDevice("too many"), Errno::EXDEV),
            (Error::Unsupported, Errno::EOPNOTSUPP),
            (Error::NoAttribute, Errno::ENODATA),
            (Error::NoData, Errno::ENXIO),
            (Error::AttributesFull, Errno::ENOSPC),
            (Error::BufferTooSmall, Errno::ERANGE),
            (Error::Stale, Errno::ESTALE),
            (Error::TooLarge, Errno::EFBIG),
            (Error::NoSpace, Errno::ENOSPC),
            (Error::Quota(text()), Errno::EDQUOT),
            (Error::Busy(text()), Errno::EBUSY),
            (Error::from(NoProgress(Duration::from_secs(90))), Errno::ETIMEDOUT),
            (Error::Io(text()), Errno::EIO),
            (Error::Stopping, Errno::EIO),
        ];
        for (error, expected) in table {
            assert_eq!(errno(&error), expected, "{error:?}");
        }
        assert_eq!(errno_name(&Error::Quota(text())), "EDQUOT");
    }

    #[test]
    fn everyday_answers_are_not_logged() {
        assert!(!is_trouble(Errno::ENOENT) && !is_trouble(Errno::EEXIST) && !is_trouble(Errno::ENODATA));
        assert!(is_trouble(Errno::EIO) && is_trouble(Errno::ETIMEDOUT));
    }
}
