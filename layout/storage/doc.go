// Package storage is a containers-storage, the place where podman, buildah and CRI-O keep their images, as a place to read images from
// and to write them to (containers-storage(5), go.podman.io/storage). It takes the locks that they take, so that all of them may use
// one store at the same time.
//
// # What a store keeps
//
// Manifests and configs are kept byte for byte; layers only unpacked. What is fetched of a layer is its tar, made again with all its
// bytes (the diff ID is its digest), and a layer as the manifest names it, compressed, is an image.FormError. A store holds images of
// one platform each: a Sink takes no index, nor artifacts, nor Docker's schema 1. Where an index was expected before one of the images
// that it names, it is kept beside that image, as podman does, so that the image can be found by the index's digest, too.
//
// An image's ID is the digest of its config. Two manifests with the same config, as one image in two compressions, are one image in a
// store: the tags of both name the manifest that came last, and either can be found by its digest.
//
// # Users without root
//
// A user's own store lives in a user namespace, where the files of layers can have the owners that they need. Open refuses to work
// outside of it: run regfs by "podman unshare", which makes it, such as
//
//	podman unshare regfs mount containers-storage: ~/images
//
// # Building
//
// The library has a driver in C for btrfs, which needs headers that few machines have. Without cgo it is left out, as it is with the
// tag exclude_graphdriver_btrfs. With cgo and without the tag, and on other systems than Linux, this package can open no store.
package storage
