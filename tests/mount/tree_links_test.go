//go:build linux

package mount_test

import (
	"context"
	"path/filepath"
)

// linksImage is all that a tar can have and a Debian system has not, in each of the formats of GNU tar: git's programs as hard links of
// one file, as git itself installs them, capabilities, attributes, devices, holes, odd names, owners and times.
func linksImage(ctx context.Context, dir string) (layouts, error) {
	if err := shell(ctx, linksScript, dir); err != nil {
		return layouts{}, err
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	return writeLayouts(ctx, dir,
		packed{tar: in("pax.tar"), packing: zstd},
		packed{tar: in("gnu.tar"), packing: plain, twin: in("gnu-twin.tar")}, // umoci does not know GNU's own sparse files
		packed{tar: in("ustar.tar"), packing: members},
		packed{tar: in("sparse0.tar"), packing: long},
		packed{tar: in("sparse1.tar"), packing: gzipped},
		packed{tar: in("v7.tar"), packing: best})
}

// linksScript makes one tar of each format, each with a folder of its own in it.
const linksScript = `cd "$1"
	umask 022
	mkdir pax gnu ustar v7 sparse
	cp -a /usr/lib/git-core pax/git-core
	cd pax
	find git-core -type l -lname git | while read link; do ln -f git-core/git "$link"; done
	mkdir links
	echo one > links/a; ln links/a links/b; ln links/a c
	ln -s nowhere links/soft; ln links/soft links/soft-too
	ln -s /etc/passwd links/absolute
	ln -s "$(printf '%0300d' 7)" links/long
	ln -s .. links/up
	mkfifo links/fifo; ln links/fifo links/fifo-too
	mknod links/null c 1 3; mknod links/large c 4095 1048575; mknod links/disk b 8 1; ln links/disk links/disk-too
	mkdir modes
	echo s > modes/setuid; echo s > modes/setgid; mkdir modes/sticky modes/none; touch modes/none/in modes/empty
	chown 3000000000:4000000000 modes/empty
	chown 65534:100 modes/setuid modes/none; chown -h 5:6 links/soft
	chmod 4755 modes/setuid; chmod 2755 modes/setgid; chmod 3777 modes/sticky; chmod 0 modes/none; chmod 7000 modes/empty
	mkdir caps
	cp /bin/true caps/one; cp /bin/true caps/two; cp /bin/true caps/rootid
	setcap cap_net_raw+ep caps/one
	setcap cap_chown,cap_sys_admin=eip caps/two; ln caps/two caps/two-too
	setcap -n 100000 cap_net_bind_service+ep caps/rootid
	mkdir attrs
	touch attrs/user attrs/empty attrs/large attrs/trusted; ln -s user attrs/link
	setfattr -n user.mime_type -v text/plain attrs/user
	setfattr -n user.binary -v 0x0001ff0a3d00 attrs/user
	setfattr -n user.with=equals -v a=b attrs/user
	setfattr -n user.empty attrs/empty
	setfattr -n user.large -v "$(head -c 2500 /dev/zero | tr '\0' x)" attrs/large
	setfattr -n trusted.thing -v 1 attrs/trusted; setfattr -h -n trusted.thing -v 2 attrs/link
	setfattr -n security.thing -v 3 attrs; setfattr -n user.folder -v 4 attrs
	mkdir names
	cd names
	touch -- "$(printf '%0255d' 1)" "$(printf '\303\244\342\202\254')" "$(printf '\377\376')" "$(printf 'a\nb\tc')" ' x ' 'a\b' '"q"' '*' '-n' '...' '.wh' 'x.wh.y'
	deep=$(printf '%0100d/' 1 2 3 4 5 6 7 8 9 10 11 12); mkdir -p "$deep"; echo deep > "$deep/file"; ln "$deep/file" near
	mkdir -p "$(printf 'd/%.0s' {1..200})"
	cd ..
	mkdir times
	touch -d '1969-12-31 23:59:59.25 UTC' times/before; touch -d '1901-12-14 00:00:00 UTC' times/old
	touch -d '2040-01-01 00:00:00.123456789 UTC' times/later; touch -d '1970-01-01 00:00:00 UTC' times/zero
	touch -h -d '1999-01-01 00:00:00.5 UTC' links/soft; touch -d '2001-02-03 04:05:06.000000007 UTC' times
	cd ..
	mkdir gnu/gnu; cp -a pax/names pax/times pax/modes pax/links gnu/gnu/
	mkdir -p ustar/ustar; cp -a pax/git-core ustar/ustar/; cp -a pax/times/zero pax/links ustar/ustar/; rm ustar/ustar/links/l{arge,ong}
	mkdir -p v7/v7; cp -a pax/times/zero v7/v7/; ln -s zero v7/v7/soft; ln v7/v7/zero v7/v7/hard; mkdir v7/v7/folder
	for version in 0 1; do
	  mkdir -p sparse/$version; cd sparse/$version
	  truncate -s 20M hole; touch none
	  echo begin > begin; truncate -s 3M begin
	  truncate -s 5000000 end; echo end >> end
	  for at in 1 3 5 7 9 20 33 60 77 100 130 150 180 200 220 240 260 300 310 320 350 360 380 400; do echo $at | dd of=many bs=10007 seek=$at conv=notrunc status=none; done
	  cp --sparse=always many "$(printf '%0200d' 5)"
	  cd ../..
	done
	attributes="--xattrs --xattrs-include=*"
	tar -C pax --format=pax --numeric-owner $attributes -cf pax.tar .
	tar -C ustar --format=ustar --numeric-owner -cf ustar.tar ustar
	tar -C v7 --format=v7 --numeric-owner -cf v7.tar v7
	tar -C sparse --format=pax --sparse-version=0.1 -S -cf sparse0.tar 0
	tar -C sparse --format=pax --sparse-version=1.0 -S -cf sparse1.tar 1
	cp -a sparse/0 gnu/gnu/sparse
	tar -C gnu --format=gnu --numeric-owner -S -cf gnu.tar gnu
	tar -C gnu --format=gnu --numeric-owner -cf gnu-twin.tar gnu`
