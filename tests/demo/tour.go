package main

import "os/exec"

// stop is one command of the tour, run by sh in the registry's folder.
type stop struct {
	says    string
	command string
	// needs is a program beyond the coreutils; without it the stop is left out.
	needs string
}

func (s stop) missing() string {
	if s.needs != "" {
		if _, err := exec.LookPath(s.needs); err != nil {
			return s.needs
		}
	}
	return ""
}

var tour = []stop{
	{says: "A registry is a folder of repositories,", command: "ls . team"},
	{says: "a repository has tags,", command: "ls team/hello/tags"},
	{says: "and a tag is an image.", command: "ls team/hello/tags/v1"},
	{command: "cat team/hello/tags/v1/digest"},
	{says: "Its files have the bytes that the registry has, exactly: the index that the tag names,",
		command: "head -c 240 team/hello/tags/v1/index.json"},
	{command: "sha256sum team/hello/tags/v1/index.json"},
	{says: "each of its platforms,", command: "ls team/hello/tags/v1/platforms/linux"},
	{command: "cat team/hello/tags/v1/platforms/linux/arm64/config.json"},
	{says: "and each layer.", command: "cat team/hello/tags/v1/layers/*/created_by"},
	{says: "cp copies an image, with all its platforms, as an OCI layout. Blobs are named by their digests.",
		command: "cp -r team/hello/tags/v1/oci-layout $OUT/hello"},
	{command: "ls $OUT/hello"},
	{command: "cd $OUT/hello/blobs/sha256 && sha256sum *"},
	{says: "diff compares releases.", command: "diff -rq team/hello/tags/v1/layers team/hello/tags/v2/layers || test $? = 1", needs: "diff"},
	{says: "An artifact's files are files.", command: "ls -R team/docs/tags/latest/files"},
	{command: "cat team/docs/tags/latest/files/hello.txt"},
	{says: "What is attached to an image stands beside it.", command: "ls team/hello/tags/v1/referrers"},
	{command: "cat team/hello/tags/v1/referrers/*/files/sbom.spdx.json"},
	{says: "The same image in one file, for podman load and the like.", needs: "tar",
		command: "tar tf team/hello/tags/v1/archive.oci.tar"},
	{says: "Writing a layout pushes it: a copy of an image is a cp, and what need not move does not.",
		command: "mkdir -p team/copy/tags/v1 && cp -r team/hello/tags/v1/oci-layout team/copy/tags/v1/"},
	{command: "cmp team/hello/tags/v1/digest team/copy/tags/v1/digest && ls team/copy/tags"},
	{says: "How it got there:", command: "cat ../.regfs/pushes/*/team/copy/v1.json"},
	{says: "A tag is a link away.", command: "ln -s v1 team/copy/tags/stable && cat team/copy/tags/stable/digest"},
	{says: "And what the mount has been doing:", command: "cat ../.regfs/status.json"},
}
