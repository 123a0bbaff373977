#pragma once
// The settings file: flat TOML (key = value, arrays, comments), read strictly.

#include <string>
#include <vector>

namespace idistill::options {

/// One `key = value` or `key = [values]`; values as the command line takes them: strings without quotes, numbers with
/// the digits that they were given with.
struct TomlItem {
    std::string key;
    std::vector<std::string> values;
    bool array = false;
    int line = 0;
};

/// Items in order of the file. Throws Error(usage) naming `file`, line and what is wrong: syntax, tables, dates, a key
/// given twice.
std::vector<TomlItem> parse_toml(std::string text, const std::string& file);

}  // namespace idistill::options
