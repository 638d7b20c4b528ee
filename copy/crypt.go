package copy

import (
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"

	"github.com/containers/ocicrypt"
	"github.com/containers/ocicrypt/config"

	"github.com/regfs/regfs/image"
)

// unseal decrypts a layer that annotations tell how to decrypt. What it reads is authentic when it ended in io.EOF.
func unseal(keys *config.DecryptConfig, from io.Reader, annotations map[string]string) (io.Reader, error) {
	plain, _, err := ocicrypt.DecryptLayer(keys, from, image.Descriptor{Annotations: annotations}, false)
	if err != nil {
		return nil, fmt.Errorf("decrypt: %s: %w", oneLine(err), image.ErrDenied)
	}
	return &authentic{plain}, nil
}

// authentic tells of what does not fit a layer's code in the words of this package: it was changed after it was encrypted.
type authentic struct{ io.Reader }

func (a *authentic) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("decrypt: it is not what was encrypted: %w", image.ErrDigest)
	}
	return n, err
}

// oneLine is what an error says, which ocicrypt tells in several lines.
func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// sealer encrypts what is written to it.
type sealer struct {
	pipe        *io.PipeWriter
	annotations map[string]string
	finalize    ocicrypt.EncryptLayerFinalizer
	done        chan error
}

// seal encrypts into to. What has to be known to decrypt it is in annotations after finish; abort ends it without that, and does
// nothing after finish.
func seal(keys *config.EncryptConfig, to io.Writer, d image.Descriptor, annotations map[string]string) (*sealer, error) {
	r, w := io.Pipe()
	from, finalize, err := ocicrypt.EncryptLayer(keys, r, image.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
	if err != nil {
		return nil, fmt.Errorf("encrypt: %s: %w", oneLine(err), image.ErrDenied)
	}
	s := &sealer{w, annotations, finalize, make(chan error, 1)}
	go func() {
		_, err := io.CopyBuffer(to, struct{ io.Reader }{from}, make([]byte, aheadBuffer))
		r.CloseWithError(err)
		s.done <- err
		close(s.done)
	}()
	return s, nil
}

// wrapping is held while keys are encrypted: ocicrypt sets a variable of its pkcs7 package for that.
var wrapping sync.Mutex

func (s *sealer) Write(p []byte) (int, error) { return s.pipe.Write(p) }

func (s *sealer) finish() error {
	s.pipe.Close()
	if err := <-s.done; err != nil {
		return err
	}
	wrapping.Lock()
	defer wrapping.Unlock()
	annotations, err := s.finalize()
	if err != nil {
		return fmt.Errorf("encrypt: %s: %w", oneLine(err), image.ErrDenied)
	}
	maps.Copy(s.annotations, annotations)
	return nil
}

func (s *sealer) abort() {
	s.pipe.CloseWithError(io.ErrClosedPipe)
	<-s.done
}
