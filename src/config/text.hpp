#pragma once
// Words for messages: quoting, sizes, and "did you mean" by edit distance.

#include <span>
#include <string>
#include <string_view>

namespace idistill::config {

std::string in_quotes(std::string_view text);

/// "1.5 GB": three digits, powers of 1000.
std::string shown_bytes(double bytes);

/// Fewest insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The nearest name (the first of equals) if it is near enough to be meant - at most a third of its letters, and always
/// one - otherwise empty.
std::string nearest(std::string_view word, std::span<const std::string> names);

}  // namespace idistill::config
