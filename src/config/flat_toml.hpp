#pragma once
// The settings file: flat TOML (key = value, arrays, comments), read strictly. CLI11's own reader is not used: it cuts
// strings at '#', splits them at spaces, takes a line without '=' for "true" and skips short lines, all without a word.

#include <string>
#include <string_view>
#include <vector>

namespace idistill::config {

/// One `key = value` or `key = [values]`; values as text, without quotes.
struct TomlItem {
    std::string key;
    std::vector<std::string> values;
    bool array = false;
    int line = 0;
};

/// Items in order of the file. Throws Error(usage) naming `file`, line and what is wrong: syntax, tables, a key given
/// twice.
std::vector<TomlItem> parse_flat_toml(std::string_view text, const std::string& file);

}  // namespace idistill::config
