// Package volume owns what carries a machine's files from outside into an appliance: the tree of
// their names, the volumes that hold such a tree, and how a file system is told by its first bytes.
//
// It must not know what the files say, nor how a device is mounted.
package volume
