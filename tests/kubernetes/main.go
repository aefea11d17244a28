// Command kubernetes is the cluster that Squire's scenario tests run against: etcd, kube-apiserver,
// kube-controller-manager, kube-scheduler and kubectl of one Kubernetes release, unchanged, in one binary. The first
// argument names the component; the rest are that component's own. `node` is the one part of our own: what a kubelet
// does for port-forwarding, on kubelet's own streaming library (node.go).
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"

	// As in Kubernetes' own commands: metrics of client-go and the version are registered by import.
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
)

// Only the chosen component is built: each registers feature gates and flags of its own in global state.
var components = map[string]func(){
	"etcd":                    func() { etcdmain.Main(os.Args) },
	"kube-apiserver":          func() { run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() { run(controllers.NewControllerManagerCommand()) },
	"kube-scheduler":          func() { run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 func() { run(kubectl.NewDefaultKubectlCommand()) },
	"node":                    func() { run(nodeCommand()) },
}

func main() {
	if len(os.Args) < 2 || components[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: kubernetes etcd|kube-apiserver|kube-controller-manager|kube-scheduler|kubectl|node [FLAGS]")
		os.Exit(2)
	}
	if os.Getenv("SQUIRE_TEST_LEASH") != "" {
		go leash(os.Getppid())
	}
	name := os.Args[1]
	// etcd and kubectl read os.Args themselves, and cobra does by default.
	os.Args = os.Args[1:]
	components[name]()
}

func run(command *cobra.Command) {
	os.Exit(cli.Run(command))
}

// leash ends this process once the one that started it is gone, however that ended: a killed test leaves nothing behind.
func leash(parent int) {
	for os.Getppid() == parent {
		time.Sleep(time.Second)
	}
	os.Exit(1)
}
