//! The files of runs in S3.
