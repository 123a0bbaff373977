#include "toml.hpp"

#include <fmt/format.h>
#include <toml++/toml.h>

#include <algorithm>
#include <optional>
#include <regex>

#include "idistill/base/error.hpp"
#include "idistill/base/text.hpp"

namespace idistill::options {
namespace {

const std::string any_value = "a string in quotes, a number, true, false or an array";

/// The text of a file by the positions that toml++ gives: lines and code points, from 1.
class Source {
public:
    Source(std::string text, const std::string& file) : text_(std::move(text)), file_(file) {
        const std::string byte_order_mark = "\xEF\xBB\xBF";  // which toml++ does not count
        if (text_.starts_with(byte_order_mark)) text_.erase(0, byte_order_mark.size());
    }

    [[nodiscard]] const std::string& text() const { return text_; }

    /// Byte of a position; the end of the text for one behind it.
    [[nodiscard]] std::size_t byte(toml::source_position position) const {
        std::size_t at = line_begin(position.line);
        for (auto column = position.column; column > 1 && at < text_.size(); --column) do
                ++at;
            while (at < text_.size() && (static_cast<unsigned char>(text_[at]) & 0xC0U) == 0x80U);
        return at;
    }

    [[nodiscard]] std::string between(const toml::source_region& region) const {
        const auto begin = byte(region.begin);
        return text_.substr(begin, byte(region.end) - begin);
    }

    [[nodiscard]] std::string line(toml::source_index number) const {
        const auto begin = line_begin(number);
        auto line = text_.substr(begin, std::min(text_.find('\n', begin), text_.size()) - begin);
        if (line.ends_with('\r')) line.pop_back();
        return line;
    }

    void replace(std::size_t begin, std::size_t end, const std::string& by) { text_.replace(begin, end - begin, by); }

    [[noreturn]] void fail(toml::source_index line, const std::string& key, const std::string& expected,
                           const std::string& found, const std::string& remedy = {}) const {
        throw Error(ExitCode::usage, {fmt::format("{} line {}", file_, line), key, expected, found, remedy});
    }

private:
    [[nodiscard]] std::size_t line_begin(toml::source_index number) const {
        std::size_t at = 0;
        for (toml::source_index line = 1; line < number && at < text_.size(); ++line)
            at = std::min(text_.find('\n', at), text_.size() - 1) + 1;
        return at;
    }

    std::string text_;
    std::string file_;
};

/// toml++ stops behind an integer that is too large for a signed one, such as a seed may be: then it is put in quotes.
bool quoted_large_integer(Source& source, const toml::parse_error& error) {
    const auto end = source.byte(error.source().begin);
    auto begin = end;
    const auto& text = source.text();
    while (begin > 0 && std::string("0123456789_+-").find(text[begin - 1]) != std::string::npos) --begin;
    std::string digits = text.substr(begin, end - begin);
    std::erase(digits, '_');
    if (digits.starts_with('+')) digits.erase(0, 1);
    static const std::regex integer("-?[1-9][0-9]{18,}");
    if (!std::regex_match(digits, integer)) return false;
    source.replace(begin, end, in_quotes(digits));
    return true;
}

/// toml++'s words with what they come to for this line.
[[noreturn]] void refuse_syntax(const Source& source, const toml::parse_error& error) {
    const auto number = error.source().begin.line;
    const auto line = source.line(number);
    std::smatch parts;
    std::string key, value;
    static const std::regex pair(R"(^\s*([A-Za-z0-9_-]+)\s*(?:=\s*([^#]*?)\s*(?:#.*)?)?$)");
    if (std::regex_match(line, parts, pair)) key = parts[1], value = parts[2];

    const std::string words{error.description()};
    if (words.find("redefine") != std::string::npos)
        source.fail(number, key, "every key once", in_quotes(key) + " again", "Keep one of the two.");

    static const std::regex bare(R"([^"'\[\]{},\s]+)");
    if (std::regex_match(value, bare))
        source.fail(number, key, any_value, in_quotes(value),
                    fmt::format("Write {} = \"{}\" if a string is meant.", key, value));
    std::string expected = "TOML", found = words;
    static const std::regex task("^Error while parsing [^:]*: (.*)$");
    if (std::regex_match(words, parts, task)) found = parts[1];
    const auto whole_of_it = found;
    static const std::regex both("^expected (.*), saw (.*)$");
    if (std::regex_match(whole_of_it, parts, both)) expected = parts[1], found = parts[2];
    if (found == R"('\n')" || found == R"('\r')") found = "the end of the line";
    if (found == "EOF" || found == "encountered end-of-file")
        expected = "the rest of a value", found = "the end of the file";
    source.fail(number, key, expected, found,
                line.find('\\') != std::string::npos
                    ? "Use single quotes for text with backslashes, such as a regular expression."
                    : "Write key = value; strings stand in quotes.");
}

toml::table parsed(Source& source) {
    while (true) {
        try {
            return toml::parse(source.text());
        } catch (const toml::parse_error& error) {
            if (!quoted_large_integer(source, error)) refuse_syntax(source, error);
        }
    }
}

/// A value as the command line takes it.
std::string word(const Source& source, const std::string& key, const toml::node& node) {
    const auto& region = node.source();
    if (const auto* text = node.as_string()) return **text;
    if (const auto* on = node.as_boolean()) return **on ? "true" : "false";
    if (const auto* number = node.as_integer()) return std::to_string(**number);
    auto written = source.between(region);
    if (!node.is_floating_point())
        source.fail(region.begin.line, key, any_value, in_quotes(written),
                    node.is_array() || node.is_table() ? "Settings files are flat: remove the inner brackets."
                                                       : "Put it in quotes if a string is meant.");
    std::erase(written, '_');
    return written.starts_with('+') ? written.substr(1) : written;
}

TomlItem item(const Source& source, const toml::key& name, const toml::node& node) {
    const auto line = name.source().begin.line;
    const std::string key{name.str()};
    const auto text = source.line(line);
    const auto* const array = node.as_array();
    const auto* const table = node.as_table();
    if (table != nullptr && !table->is_inline() && text.find('=') < text.find('['))
        source.fail(line, key, "key = value", "a key with a dot " + in_quotes(text), "Write a key without dots.");
    if (table != nullptr || (array != nullptr && array->is_array_of_tables()))
        source.fail(line, key, "key = value", "a table " + in_quotes(text),
                    "Settings files are flat: remove the table.");
    TomlItem item{key, {}, array != nullptr, static_cast<int>(line)};
    if (array == nullptr)
        item.values.push_back(word(source, key, node));
    else
        for (const auto& element : *array) item.values.push_back(word(source, key, element));
    return item;
}

}  // namespace

std::vector<TomlItem> parse_toml(std::string text, const std::string& file) {
    Source source(std::move(text), file);
    const auto table = parsed(source);
    std::vector<std::pair<const toml::key*, const toml::node*>> nodes;
    for (const auto& [key, node] : table) nodes.emplace_back(&key, &node);
    std::sort(nodes.begin(), nodes.end(),
              [](const auto& a, const auto& b) { return a.first->source().begin < b.first->source().begin; });
    std::vector<TomlItem> items;
    for (const auto& [key, node] : nodes) items.push_back(item(source, *key, *node));
    return items;
}

}  // namespace idistill::options
