// Package discovery is the shell: the loop that turns bundles into worlds,
// the store that sends them to proxies over ADS, and the record of what
// proxies answered. All goroutines and locks of the data path are here.
package discovery
