//go:build linux

package mount_test

import (
	"context"
	"path/filepath"
	"sync"
)

// debians are Debian systems, made once for all tests that use them: the folders debootstrap made them in.
type debians struct {
	bookworm, trixie func() (string, error)
}

// newDebians does nothing until a system is asked for. They are made in dir.
func newDebians(ctx context.Context, dir string) debians {
	system := func(suite string) func() (string, error) {
		return sync.OnceValues(func() (string, error) {
			root := filepath.Join(dir, suite)
			return root, shell(ctx, `debootstrap --variant=minbase "$1" "$2"; rm -r "$2"/var/lib/apt/lists/* "$2"/var/cache/apt/*`, suite, root)
		})
	}
	return debians{system("bookworm"), system("trixie")}
}

// bookwormImage is one layer, as GNU tar and pigz make it of a whole system.
func (d debians) bookwormImage(ctx context.Context, dir string) (layouts, error) {
	system, err := d.bookworm()
	if err != nil {
		return layouts{}, err
	}
	tar := filepath.Join(dir, "bookworm.tar")
	// Without the many small files that the other system has, too.
	if err := shell(ctx, `tar -C "$1" --exclude='./usr/share/*' --numeric-owner --xattrs --xattrs-include='*' -cf "$2" .`, system, tar); err != nil {
		return layouts{}, err
	}
	return writeLayouts(ctx, dir, packed{tar: tar, packing: pigz})
}

// trixieImage is two layers that umoci makes: a system, and what was changed in it since.
func (d debians) trixieImage(ctx context.Context, dir string) (layouts, error) {
	system, err := d.trixie()
	if err != nil {
		return layouts{}, err
	}
	const script = `cd "$2"
		umoci init --layout layout
		umoci new --image layout:v1
		umoci unpack --image layout:v1 bundle
		cp -a "$1/." bundle/rootfs
		umoci repack --refresh-bundle --image layout:v1 bundle
		cd bundle/rootfs
		rm -r usr/share/doc usr/share/zoneinfo/* # folders, and what is in them
		rm -r usr/share/zoneinfo etc/issue
		echo UTC > usr/share/zoneinfo                            # a folder becomes a file
		mkdir -p etc/issue/now; echo 1 > etc/issue/now/1         # and a file a folder
		rm -r usr/share/man                                      # a folder becomes a link to a new one
		mkdir usr/share/handbook; ln -s handbook usr/share/man
		mkdir usr/share/locale/new; rm -r usr/share/locale/de     # a folder changes and stays
		sed -i s/trixie/changed/ etc/os-release
		ln usr/bin/perl usr/bin/perl-too
		rm usr/bin/perl
		ln usr/bin/uname usr/bin/uname-too
		chmod 4700 usr/bin/cat
		chown 12:13 usr/bin/ls
		touch -d '1999-12-31 23:59:59.999999999' var/lib/dpkg/status
		setfattr -n user.note -v changed usr/bin/ls
		setcap cap_net_raw+ep usr/bin/sed
		cd ../..
		umoci repack --refresh-bundle --image layout:v1 bundle
		rm -r bundle`
	layout := filepath.Join(dir, "layout")
	return layouts{layout, layout}, shell(ctx, script, system, dir)
}
