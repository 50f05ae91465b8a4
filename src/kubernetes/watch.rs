//! One watch per kind: paging, bookmarks, whole-list swap.
