// Package console serves the pages that a browser opens: for now GraphiQL, a login page, and
// what they load. All of it is embedded; nothing is fetched from elsewhere. dist/ holds pinned
// third-party builds, compressed, made by build.sh.
package console

import (
	"bytes"
	"compress/gzip"
	"embed"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

//go:generate ./build.sh

//go:embed assets/* dist/*.gz
var files embed.FS

// Assets serves the files under /console/.
func Assets() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		name := path.Base(path.Clean(r.URL.Path))
		w.Header().Set("Content-Type", mime.TypeByExtension(path.Ext(name)))
		w.Header().Set("Cache-Control", "public, max-age=3600")
		if b, err := fs.ReadFile(files, "assets/"+name); err == nil && !strings.HasSuffix(name, ".html") {
			_, _ = w.Write(b) //nolint:gosec // our own embedded file
			return
		}
		b, err := fs.ReadFile(files, "dist/"+name+".gz")
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Vary", "Accept-Encoding")
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(b) //nolint:gosec // our own embedded file
			return
		}
		if plain, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
			_, _ = io.Copy(w, plain) //nolint:gosec // our own embedded file, of a known size
		}
	})
}

// Page serves GraphiQL.
func Page() http.Handler {
	page, err := fs.ReadFile(files, "assets/index.html")
	if err != nil {
		panic(err) // embedded at build time
	}
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(page)
	})
}
