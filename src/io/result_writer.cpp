#include <algorithm>
#include <filesystem>
#include <iterator>
#include <map>
#include <system_error>
#include <utility>

#include "idistill/data/parallel_file.hpp"
#include "idistill/io/result_datasets.hpp"
#include "idistill/io/result_file.hpp"

namespace idistill::io {

using data::await_closing;
using data::ParallelFile;
using data::rename_durably;
using data::require_creatable;
namespace {

constexpr const char* remedy = "Free disk space or repair the file system, then repeat the command: it continues.";

std::string copied(const std::string& from, const std::string& to) {
    namespace fs = std::filesystem;
    std::error_code error;
    fs::copy_file(from, to, fs::copy_options::overwrite_existing, error);
    if (!error) fs::permissions(to, fs::perms::owner_write, fs::perm_options::add, error);
    if (!error) return to;
    throw Error(error == std::errc::no_such_file_or_directory ? ExitCode::bad_input : ExitCode::too_large,
                {.where = to,
                 .field = "",
                 .expected = "to copy " + from + " to this file",
                 .found = error.message(),
                 .remedy = "Check folder, permissions and free space, or choose another --out."});
}

}  // namespace

struct ResultWriter::Impl {
    comm::Communicator& communicator;
    std::string out;
    std::string partial;
    ParallelFile parallel;

    struct Filled {
        h5::Dataset dataset;
        std::int64_t rows_written = 0;  ///< by this rank
    };
    std::map<std::string, Filled> filled;  ///< what create() made; closed before the file

    /// Rank 0 prepares the path alone; the others meet it at the barrier.
    Impl(comm::Communicator& ranks, std::string path, const std::string* copy_of, const FileFormat& format)
        : communicator(ranks),
          out(std::move(path)),
          partial(out + ".partial"),
          parallel(copy_of == nullptr ? create() : copy(*copy_of)) {
        attribute("format", format.name);
        attribute("version", format.version);
    }

    ParallelFile create() {
        await_closing(communicator);
        if (communicator.is_root()) require_creatable(partial);
        communicator.barrier();
        return ParallelFile::create(communicator, partial, ExitCode::too_large, remedy);
    }

    ParallelFile copy(const std::string& from) {
        await_closing(communicator);
        if (communicator.is_root()) {
            require_creatable(partial);
            copied(from, partial);
        }
        communicator.barrier();
        return ParallelFile::open(communicator, partial, ExitCode::too_large, remedy);
    }

    /// Ranks that are late for it are named by the barrier.
    void together(const std::string& name, const std::function<void()>& change) {
        communicator.barrier();
        parallel.together("creation of " + name, change);
    }

    /// What make() creates in place of what is there, on every rank; open() finds it on those that do not create.
    template <class Make, class Open>
    h5::Dataset replace(const std::string& name, const Make& make, const Open& open) {
        h5::Dataset dataset;
        together(name, [&] {
            h5::remove_link(parallel.file, name);
            dataset = make();
        });
        return dataset.handle.valid() ? std::move(dataset) : open();
    }

    h5::Dataset create_strings(const std::string& name, std::int64_t rows, std::int64_t bytes) {
        return replace(
            name, [&] { return h5::create_strings(parallel.file, name, rows, bytes); },
            [&] { return h5::open_strings(parallel.file, name); });
    }

    template <class T>
    h5::Dataset create_dataset(const std::string& name, std::int64_t rows, std::int64_t width) {
        constexpr h5::Type type = h5::type_of<T>::value;
        std::vector<std::int64_t> shape{rows};
        if (width > 0) shape.push_back(width);
        return replace(
            name, [&] { return h5::create_dataset(parallel.file, name, type, shape); },
            [&] { return h5::open_dataset(parallel.file, name, type, shape.size()); });
    }

    template <class T>
    void attribute(const std::string& name, const T& value) {
        together(name, [&] { h5::write_attribute(parallel.file, name, value); });
    }

    void remove_attribute(const std::string& name) {
        together(name, [&] { h5::remove_attribute(parallel.file, name); });
    }

    const h5::Dataset& fill(const std::string& name, std::int64_t rows) {
        Filled& entry = filled.at(name);
        entry.rows_written += rows;
        return entry.dataset;
    }

    void require_all_rows() {
        std::vector<std::int64_t> written;
        for (const auto& [name, entry] : filled) written.push_back(entry.rows_written);
        communicator.all_reduce(std::span(written), comm::Reduction::sum);
        auto sum = written.begin();
        for (const auto& [name, entry] : filled) {
            if (*sum++ == entry.dataset.rows()) continue;
            throw Error(ExitCode::internal_error,
                        {.where = out,
                         .field = name,
                         .expected = std::to_string(entry.dataset.rows()) + " rows over all ranks",
                         .found = std::to_string(*std::prev(sum)),
                         .remedy = ""});
        }
    }
};

ResultWriter::ResultWriter(comm::Communicator& communicator, std::string out, const FileFormat& format)
    : impl_(std::make_unique<Impl>(communicator, std::move(out), nullptr, format)) {}
ResultWriter::ResultWriter(comm::Communicator& communicator, std::string out, const std::string& copy_of)
    : impl_(std::make_unique<Impl>(communicator, std::move(out), &copy_of, result_format)) {}
ResultWriter::~ResultWriter() = default;

void ResultWriter::attribute(const std::string& name, const std::string& value) { impl_->attribute(name, value); }
void ResultWriter::attribute(const std::string& name, std::int64_t value) { impl_->attribute(name, value); }
void ResultWriter::attribute(const std::string& name, double value) { impl_->attribute(name, value); }
void ResultWriter::remove_attribute(const std::string& name) { impl_->remove_attribute(name); }

template <class T>
void ResultWriter::small(const std::string& name, std::span<const T> values, std::int64_t width) {
    const std::int64_t rows = static_cast<std::int64_t>(values.size()) / std::max<std::int64_t>(width, 1);
    create<T>(name, rows, width);
    if (impl_->communicator.is_root()) write<T>(name, {0, rows}, values);
}

void ResultWriter::strings(const std::string& name, const std::vector<std::string>& values) {
    create_strings(name, std::ssize(values), longest_of(values));
    if (impl_->communicator.is_root()) write_strings(name, 0, values);
}

template <class T>
void ResultWriter::create(const std::string& name, std::int64_t rows, std::int64_t width) {
    impl_->filled[name] = {impl_->create_dataset<T>(name, rows, width)};
}

void ResultWriter::create_strings(const std::string& name, std::int64_t rows, std::int64_t bytes) {
    impl_->filled[name] = {impl_->create_strings(name, rows, bytes)};
}

template <class T>
void ResultWriter::write(const std::string& name, data::RowRange rows, std::span<const T> values) {
    h5::write_rows<T>(impl_->parallel.file, impl_->fill(name, rows.count), rows.first, rows.count, values);
}

void ResultWriter::write_strings(const std::string& name, std::int64_t first_row, std::span<const std::string> values) {
    const auto& dataset = impl_->fill(name, static_cast<std::int64_t>(values.size()));
    h5::write_strings(impl_->parallel.file, dataset, first_row, values);
}

void ResultWriter::commit() {
    impl_->require_all_rows();
    impl_->filled.clear();
    impl_->parallel.close();
    if (impl_->communicator.is_root()) rename_durably(impl_->partial, impl_->out);
    impl_->communicator.barrier();
}

#define IDISTILL_RESULT_TYPE(T)                                                                 \
    template void ResultWriter::small<T>(const std::string&, std::span<const T>, std::int64_t); \
    template void ResultWriter::create<T>(const std::string&, std::int64_t, std::int64_t);      \
    template void ResultWriter::write<T>(const std::string&, data::RowRange, std::span<const T>);
IDISTILL_RESULT_TYPE(float)
IDISTILL_RESULT_TYPE(double)
IDISTILL_RESULT_TYPE(std::uint8_t)
IDISTILL_RESULT_TYPE(std::int32_t)
IDISTILL_RESULT_TYPE(std::int64_t)
#undef IDISTILL_RESULT_TYPE

}  // namespace idistill::io
