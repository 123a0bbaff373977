#pragma once
// Words and numbers in messages: quoting, lists, sizes, and "did you mean" by edit distance.

#include <charconv>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>

namespace idistill {

std::string in_quotes(std::string_view text);

/// "a, b or c".
std::string alternatives(std::span<const std::string> names);

/// "1.5 GB": three digits, powers of 1000.
std::string shown_bytes(double bytes);

/// The fewest digits that read back as this number.
std::string shortest(double value);

/// The number that the whole text is; nothing when it is none or something follows it.
template <class T>
std::optional<T> whole(const std::string& text) {
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return value;
}

/// Fewest insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
std::size_t edit_distance(std::string_view a, std::string_view b);

/// The nearest name (the first of equals) if it is near enough to be meant - at most a third of its letters, and always
/// one - otherwise empty.
std::string nearest(std::string_view word, std::span<const std::string> names);

}  // namespace idistill
