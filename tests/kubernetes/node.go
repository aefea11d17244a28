package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubelet/pkg/cri/streaming/portforward"
)

// As kubelet has them by default.
const (
	idle     = 4 * time.Hour
	creation = 30 * time.Second
)

// nodeCommand serves the kubelet endpoint that the API server forwards ports through, for pods whose containers run as
// plain processes here. The protocol is kubelet's own library; who may ask is decided as kubelet does it, by the API
// server's client certificate.
func nodeCommand() *cobra.Command {
	var listen, cert, key, clients, pods string
	command := &cobra.Command{
		Use:          "node",
		SilenceUsage: true,
		RunE: func(*cobra.Command, []string) error {
			pem, err := os.ReadFile(clients)
			if err != nil {
				return err
			}
			roots := x509.NewCertPool()
			if !roots.AppendCertsFromPEM(pem) {
				return errors.New("--client-ca-file: no certificate in it")
			}
			server := &http.Server{
				Addr:    listen,
				Handler: &forwarder{pods},
				// Upgrades to SPDY need HTTP/1.1.
				TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
				TLSConfig: &tls.Config{
					MinVersion: tls.VersionTLS12,
					ClientAuth: tls.RequireAndVerifyClientCert,
					ClientCAs:  roots,
				},
			}
			return server.ListenAndServeTLS(cert, key)
		},
	}
	flags := command.Flags()
	flags.StringVar(&listen, "listen", "", "the node's kubelet address")
	flags.StringVar(&cert, "tls-cert-file", "", "what it shows")
	flags.StringVar(&key, "tls-private-key-file", "", "its key")
	flags.StringVar(&clients, "client-ca-file", "", "whom it believes")
	flags.StringVar(&pods, "pods", "", "a file of lines NAMESPACE/NAME ADDRESS: where the network of each pod is reached")
	return command
}

type forwarder struct {
	// The file of pods, read anew for each request.
	pods string
}

// address says where a pod is reached; empty for pods of other nodes.
func (f *forwarder) address(pod string) (string, error) {
	text, err := os.ReadFile(f.pods)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == pod {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("no such pod on this node: %s", pod)
}

// ServeHTTP answers /portForward/NAMESPACE/NAME.
func (f *forwarder) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	if len(parts) < 3 || parts[0] != "portForward" {
		http.NotFound(w, request)
		return
	}
	pod := parts[1] + "/" + parts[2]
	if _, err := f.address(pod); err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	options, err := portforward.NewV4Options(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, request, f, pod, "", options, idle, creation, portforward.SupportedProtocols)
}

// PortForward joins a stream to a port of a pod, as a container runtime does within the pod's network namespace.
func (f *forwarder) PortForward(ctx context.Context, pod string, _ types.UID, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	address, err := f.address(pod)
	if err != nil {
		return err
	}
	var dialer net.Dialer
	app, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address, fmt.Sprint(port)))
	if err != nil {
		return err
	}
	defer app.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(app, stream)
		if half, ok := app.(*net.TCPConn); ok {
			_ = half.CloseWrite()
		}
	}()
	_, err = io.Copy(stream, app)
	_ = stream.Close()
	<-sent
	return err
}
