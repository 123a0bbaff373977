#pragma once
// The result file (docs/files.md): written whole by all ranks under OUT.partial, then renamed.

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/token_file.hpp"

namespace idistill::io {

/// What a file says it is, as its attributes `format` and `version`.
struct FileFormat {
    std::string name;
    std::int64_t version = 1;
};
/// The format that a run and `select` write, and that ResultReader takes.
inline const FileFormat result_format{"idistill-weights", 1};

/// All members but write() and write_strings() are collective, for ranks of MPI and ranks that are threads. A dataset
/// or attribute that is already there (after `copy_of`) is replaced. The attributes `format` and `version` are written
/// by the constructors. T: float, double, uint8_t, int32_t, int64_t. A path that cannot be written and a full disk
/// throw Error naming file and dataset, on the rank that finds it.
class ResultWriter {
public:
    /// Starts OUT.partial from nothing, replacing a partial that an interrupted run left.
    ResultWriter(comm::Communicator& communicator, std::string out, const FileFormat& format = result_format);
    /// Starts OUT.partial as a copy of an existing result.
    ResultWriter(comm::Communicator& communicator, std::string out, const std::string& copy_of);
    ~ResultWriter();  ///< without commit() the partial file stays behind, never the final name
    ResultWriter(const ResultWriter&) = delete;
    ResultWriter& operator=(const ResultWriter&) = delete;

    void attribute(const std::string& name, const std::string& value);
    void attribute(const std::string& name, std::int64_t value);
    void attribute(const std::string& name, double value);
    void remove_attribute(const std::string& name);  ///< of what `copy_of` brought; also where there is none

    /// `values` (rows x width, row-major; width 0: a vector) is the same on every rank.
    template <class T>
    void small(const std::string& name, std::span<const T> values, std::int64_t width = 0);
    /// UTF-8, fixed length (the longest); the same on every rank.
    void strings(const std::string& name, const std::vector<std::string>& values);

    /// A dataset of `rows` (x width; 0: a vector) that the ranks fill with write(), each row by one of them.
    template <class T>
    void create(const std::string& name, std::int64_t rows, std::int64_t width = 0);
    /// UTF-8, of at most `bytes` bytes each; filled with write_strings().
    void create_strings(const std::string& name, std::int64_t rows, std::int64_t bytes);
    /// Rows of a dataset that create() made; values (rows x width).
    template <class T>
    void write(const std::string& name, data::RowRange rows, std::span<const T> values);
    void write_strings(const std::string& name, std::int64_t first_row, std::span<const std::string> values);

    /// Closes, flushes to disk, and renames OUT.partial to OUT. Throws Error(internal_error) when a dataset did not get
    /// as many rows as it has.
    void commit();

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

/// An existing result, opened read-only on every rank; not collective.
class ResultReader {
public:
    explicit ResultReader(const std::string& path);  ///< checks format and version; throws Error(bad_input)
    ~ResultReader();
    ResultReader(const ResultReader&) = delete;
    ResultReader& operator=(const ResultReader&) = delete;

    [[nodiscard]] const std::string& path() const;
    [[nodiscard]] std::string attribute(const std::string& name) const;  ///< a number as text
    /// Whether this dataset or group is there.
    [[nodiscard]] bool has(const std::string& name) const;
    /// A setting of the run that is a text or a number, as text; empty without.
    [[nodiscard]] std::string setting(const std::string& name) const;
    [[nodiscard]] std::int64_t row_count(const std::string& dataset) const;
    [[nodiscard]] std::int64_t width(const std::string& dataset) const;  ///< 0 for a vector
    /// Throws Error(bad_input) unless the dataset holds T (also std::string) in this shape.
    template <class T>
    void require(const std::string& dataset, const std::vector<std::int64_t>& shape) const;
    /// Throws Error(bad_input) for a content that is not what it should be.
    [[noreturn]] void refuse(const std::string& dataset, const std::string& expected, const std::string& found) const;
    /// T must be the type in the file.
    template <class T>
    [[nodiscard]] std::vector<T> read(const std::string& dataset) const;
    /// `count` numbers that are all within [0, bound): `meaning`, in the plural, for the message.
    template <class T>
    [[nodiscard]] std::vector<T> read_bounded(const std::string& dataset, std::int64_t count, std::int64_t bound,
                                              const std::string& meaning) const;
    template <class T>
    void read_rows(const std::string& dataset, data::RowRange rows, std::span<T> out) const;
    [[nodiscard]] std::vector<std::string> read_strings(const std::string& dataset) const;
    [[nodiscard]] std::vector<std::string> read_strings(const std::string& dataset, data::RowRange rows) const;

private:
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace idistill::io
